"""Public layouts of fusion data sets are recognised by the names of their folders."""

import pytest

from tasks.codes import ConfigurationError
from tasks.evaluation.datasets import Family, choose_data_sets, find_data_sets


@pytest.fixture
def data(tmp_path):
    """A folder whose own path says nothing; the names that are given are made below it as empty files."""

    def make(*names):
        root = tmp_path / "x" / "y" / "data"
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return str(root)

    return make


def found(root):
    return {one.name: one for one in find_data_sets(root)}


def keys(data_set):
    return [pair.key for pair in data_set.pairs]


@pytest.mark.parametrize(
    ("folders", "name", "family", "modalities"),
    [
        (("roadscene/ir", "roadscene/vi"), "roadscene", Family.ROADSCENE, ("infrared", "visible")),
        (("RoadScene/cropinfrared", "RoadScene/crop_LR_visible"), "roadscene", Family.ROADSCENE, None),
        (("road-scene-infrared-visible-images-master/cropinfrared",
          "road-scene-infrared-visible-images-master/crop_LR_visible"), "roadscene", Family.ROADSCENE, None),
        (("test_img/TNO/ir", "test_img/TNO/vi"), "tno", Family.TNO, None),
        (("TNO/IR", "TNO/VIS"), "tno", Family.TNO, None),
        (("MSRS/test/ir", "MSRS/test/vi"), "msrs_test", Family.MSRS, None),
        (("MSRS-main/Infrared", "MSRS-main/Visible"), "msrs", Family.MSRS, None),
        (("M3FD_Fusion/Ir", "M3FD_Fusion/Vis"), "m3fd", Family.M3FD, None),
        (("M3FD/M3FD_Fusion/ir", "M3FD/M3FD_Fusion/vi"), "m3fd", Family.M3FD, None),
        (("harvard_mri_ct/ct", "harvard_mri_ct/mri"), "harvard_mri_ct", Family.HARVARD_CT, ("CT", "MRI")),
        (("test_img/MRI_PET/PET", "test_img/MRI_PET/MRI"), "harvard_mri_pet", Family.HARVARD_PET, ("PET", "MRI")),
        (("SPECT-MRI/SPECT", "SPECT-MRI/MRI"), "harvard_mri_spect", Family.HARVARD_SPECT, ("SPECT", "MRI")),
        (("MyDatasets/CT-MRI/test/CT", "MyDatasets/CT-MRI/test/MRI"), "harvard_mri_ct_test", Family.HARVARD_CT, None),
        (("street/ir", "street/vis"), "street", None, ("infrared", "visible")),
        (("hospital/CT", "hospital/MR"), "hospital", None, ("CT", "MRI")),
    ],
)  # fmt: skip
def test_a_layout_is_recognised(data, folders, name, family, modalities):
    root = data(f"{folders[0]}/a.png", f"{folders[1]}/a.jpg", f"{folders[0]}/notes.txt", f"{folders[1]}/b.png")
    ((one_name, one),) = found(root).items()
    assert (one_name, one.family) == (name, family)
    assert modalities in (None, (one.modality_first, one.modality_second))
    assert [(pair.key, pair.first, pair.second) for pair in one.pairs] == [
        ("a", f"{root}/{folders[0]}/a.png", f"{root}/{folders[1]}/a.jpg"),
        ("b", None, f"{root}/{folders[1]}/b.png"),
    ]


def test_the_folder_itself_can_be_the_data_set(data):
    root = data("MSRS/test/ir/00004N.png", "MSRS/test/vi/00004N.png")
    assert [(one.name, one.family) for one in find_data_sets(f"{root}/MSRS/test")] == [("msrs_test", Family.MSRS)]
    assert [one.name for one in find_data_sets(f"{root}/MSRS")] == ["msrs_test"]
    root = data("plain/ir/1.png", "plain/vi/1.png")
    assert [(one.name, one.family) for one in find_data_sets(f"{root}/plain")] == [("plain", None)]


def test_splits_to_train_on_are_taken_only_by_name(data):
    sides = [f"MSRS/{split}/{side}/1.png" for split in ("train", "test", "detection") for side in ("ir", "vi")]
    sets = find_data_sets(data(*sides))
    assert [one.name for one in sets] == ["msrs_detection", "msrs_test", "msrs_train"]
    assert [one.name for one in choose_data_sets(sets, ())] == ["msrs_test"]
    assert [one.name for one in choose_data_sets(sets, ("msrs_train", "msrs_test"))] == ["msrs_train", "msrs_test"]
    assert [one.name for one in choose_data_sets(sets[2:], ())] == ["msrs_train"]
    with pytest.raises(ConfigurationError, match="no data set 'tno'; found are msrs_detection, msrs_test"):
        choose_data_sets(sets, ("tno",))


@pytest.mark.parametrize("split", ["M3FD_Detection", "msrs-train", "MSRS val", "roadscene.trainval"])
def test_a_split_is_told_by_the_last_word_of_a_name(data, split):
    sides = [f"{folder}/{side}/1.png" for folder in (split, "M3FD_Fusion") for side in ("Ir", "Vis")]
    sets = find_data_sets(data(*sides))
    assert [one.folder.rpartition("/")[2] for one in choose_data_sets(sets, ())] == ["M3FD_Fusion"]
    assert len(sets) == 2


@pytest.mark.parametrize("name", ["carnival", "detection_street", "night_trains"])
def test_other_names_are_no_splits(data, name):
    sets = find_data_sets(data(*(f"{folder}/{side}/1.png" for folder in (name, "tno") for side in ("ir", "vi"))))
    assert len(choose_data_sets(sets, ())) == 2


def test_the_visible_pictures_of_the_infrared_size_are_preferred(data):
    sides = ("cropinfrared", "crop_HR_visible", "crop_LR_visible")
    (one,) = find_data_sets(data(*(f"RoadScene/{side}/FLIR_1.jpg" for side in sides)))
    assert one.pairs[0].second.endswith("/crop_LR_visible/FLIR_1.jpg")


def test_the_original_tno_collection(data):
    root = data(
        "TNO_Image_Fusion_Dataset/Athena_images/2_men/IR_meting003_g.bmp",
        "TNO_Image_Fusion_Dataset/Athena_images/2_men/VIS_meting003_r.bmp",
        "TNO_Image_Fusion_Dataset/Kaptein_01/IR01.bmp",
        "TNO_Image_Fusion_Dataset/Kaptein_01/Vis01.bmp",
        "TNO_Image_Fusion_Dataset/Marne_01/Marne_01_IR.bmp",
        "TNO_Image_Fusion_Dataset/Marne_01/Marne_01_Vis.bmp",
        "TNO_Image_Fusion_Dataset/Marne_01/Marne_01_REF.bmp",
        "TNO_Image_Fusion_Dataset/Veluwe/NIR.bmp",
        "TNO_Image_Fusion_Dataset/Veluwe/VIS.bmp",
        "TNO_Image_Fusion_Dataset/FEL_images/Nato_camp_sequence/thermal/1800i.bmp",
        "TNO_Image_Fusion_Dataset/FEL_images/Nato_camp_sequence/visual/1800v.bmp",
        "TNO_Image_Fusion_Dataset/DHV_images/Fire_sequence/part_1/thermal/RAD10.bmp",
        "TNO_Image_Fusion_Dataset/DHV_images/Fire_sequence/part_1/dhv/DHV10.bmp",
    )
    sets = found(root)
    assert {name: keys(one) for name, one in sets.items()} == {
        "tno_scenes": ["Athena_images/2_men", "Kaptein_01", "Marne_01"],
        "tno_fel_images_nato_camp_sequence": ["1800"],
        "tno_dhv_images_fire_sequence_part_1": ["10"],
    }
    assert {one.family for one in sets.values()} == {Family.TNO}
    assert all(pair.first and pair.second for one in sets.values() for pair in one.pairs)
    assert keys(found(f"{root}/TNO_Image_Fusion_Dataset")["tno_scenes"])[0] == "Athena_images/2_men"


def test_two_folders_of_one_collection_get_names_of_their_own(data):
    sides = [f"M3FD_{part}/{side}/1.png" for part in ("Fusion", "Detection") for side in ("Ir", "Vis")]
    assert sorted(found(data(*sides))) == ["m3fd_m3fd_detection", "m3fd_m3fd_fusion"]


def test_files_in_deeper_folders_pair_by_their_path(data):
    root = data(*(f"llvip/{side}/{split}/7.jpg" for side in ("infrared", "visible") for split in ("test", "train")))
    assert keys(found(root)["llvip"]) == ["test/7", "train/7"]


def test_two_files_of_one_key_stay_two_rows(data):
    (one,) = find_data_sets(data("s/ir/a.png", "s/ir/a.bmp", "s/vi/a.png"))
    assert keys(one) == ["a", "a"]


def test_every_so_many_th_pair(data):
    root = data(*(f"s/{side}/{number}.png" for side in ("ir", "vi") for number in range(7)))
    assert keys(find_data_sets(root)[0].every(3)) == ["0", "3", "6"]


def test_an_unknown_layout_says_what_was_looked_for(data):
    root = data("left/a.png", "right/a.png")
    with pytest.raises(ConfigurationError, match=r"\(2 pictures below it\); looked for folders named ir/infrared"):
        find_data_sets(root)
