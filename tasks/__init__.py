"""The stages that a chunk of pairs goes through, one file each."""
