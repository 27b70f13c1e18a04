"""Published datasets of classes in small: the folders, lists and MATLAB files of the originals, around a few tiny pictures."""

import io
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from scipy.io import savemat

from tests.worker.pictures import picture


@dataclass(frozen=True)
class Miniature:
    """An archive's files, and (label, split) of each picture in it."""

    files: dict[str, bytes]
    expected: dict[str, tuple[str, str]]


def pictures(kind: str = "JPEG") -> Iterator[bytes]:
    """Different ones."""
    return (picture(f"rgb({20 * i}, 90, {255 - 20 * i})", (16, 16), kind) for i in count())


def miniature(lists: dict[str, bytes], expected: dict[str, tuple[str, str]]) -> Miniature:
    return Miniature(lists | dict(zip(expected, pictures(), strict=False)), expected)


def mat(**variables: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=True)
    return buffer.getvalue()


def structs(rows: Sequence[dict[str, Any]]) -> Any:
    """A struct array `1 × N`, whose numbers are matrices `1 × 1`."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for place, row in enumerate(rows):
        array[0, place] = tuple(np.array([[v]], np.uint8) if isinstance(v, int) else v for v in row.values())
    return array


def cells(texts: Sequence[str]) -> Any:
    array = np.empty((1, len(texts)), dtype=object)
    array[0] = texts
    return array


def endless_cells(name: str) -> bytes:
    """A cell array that claims two thousand million cells."""
    buffer = io.BytesIO()
    savemat(buffer, {name: cells(["a"] * 7777)})
    return buffer.getvalue().replace(struct.pack("<ii", 1, 7777), struct.pack("<ii", 1, 2**31 - 1))


def food101() -> Miniature:
    split = {"train": {"apple_pie": ["apple_pie/1", "apple_pie/2"], "waffles": ["waffles/5"]}}
    split |= {"test": {"apple_pie": ["apple_pie/3"], "waffles": ["waffles/6"]}}
    lists = {f"food-101/meta/{part}.json": json.dumps(classes).encode() for part, classes in split.items()}
    lists |= {"food-101/meta/classes.txt": b"apple_pie\nwaffles\n", "food-101/README.txt": b"Food-101"}
    pairs = [(name, label, part) for part, classes in split.items() for label, names in classes.items() for name in names]
    return miniature(lists, {f"food-101/images/{name}.jpg": (label, part) for name, label, part in pairs})


def sun397() -> Miniature:
    lists = {"SUN397/ClassName.txt": b"/a/abbey\n/a/apartment_building/outdoor\n"}
    lists |= {"SUN397/Partitions/Training_01.txt": b"/a/abbey/sun_1.jpg\r\n/a/apartment_building/outdoor/sun_3.jpg\r\n"}
    lists |= {"SUN397/Partitions/Testing_01.txt": b"/a/abbey/sun_2.jpg\r\n"}
    expected = {"abbey/sun_1": ("abbey", "train"), "abbey/sun_2": ("abbey", "test")}
    expected |= {"apartment_building/outdoor/sun_3": ("apartment_building/outdoor", "train"), "abbey/sun_4": ("abbey", "")}
    return miniature(lists, {f"SUN397/a/{name}.jpg": caption for name, caption in expected.items()})


def df20m() -> Miniature:
    header = "gbifID,year,scientificName,species,image_url,image_path,class_id\n"
    row = '1,2019,{},{},"https://example.org/a,b",/Datasets/SvampeAtlas-14.12.2020/{}.jpg,3\n'
    mycena, boletus = "Mycena galericulata (Scop.) Gray", '"Boletus edulis Bull., 1782"'
    train = header + row.format(mycena, "Mycena galericulata", "2237-1") + row.format(boletus, "", "2237-2")
    lists = {"DF20M-train_metadata_PROD.csv": train.encode()}
    lists |= {"DF20M-public_test_metadata_PROD.csv": (header + row.format(mycena, "", "2237-3")).encode()}
    expected = {"2237-1": (mycena, "train"), "2237-2": (boletus.strip('"'), "train"), "2237-3": (mycena, "test")}
    return miniature(lists, {f"DF20M/{name}.JPG": caption for name, caption in expected.items()})


def caltech101() -> Miniature:
    classes = ("Faces_easy", "Leopards", "BACKGROUND_Google", "Faces")
    names = {f"101_ObjectCategories/{label}/image_000{i}.jpg": (label, "") for label in classes for i in (1, 2)}
    return miniature({}, names)


def cub200() -> Miniature:
    lists = {
        "images.txt": "1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg\n"
        "2 001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg\n"
        "3 002.Laysan_Albatross/Laysan_Albatross_0001_545.jpg\n",
        "image_class_labels.txt": "1 1\n2 1\n3 2\n",
        "classes.txt": "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n",
        "train_test_split.txt": "1 0\n2 1\n3 1\n",
    }
    files = {f"CUB_200_2011/{name}": text.encode() for name, text in lists.items()} | {"attributes.txt": b"1 has_bill_shape"}
    black = "CUB_200_2011/images/001.Black_footed_Albatross/Black_Footed_Albatross_"
    expected = {f"{black}0046_18.jpg": ("Black_footed_Albatross", "test")}
    expected |= {f"{black}0009_34.jpg": ("Black_footed_Albatross", "train")}
    expected |= {"CUB_200_2011/images/002.Laysan_Albatross/Laysan_Albatross_0001_545.jpg": ("Laysan_Albatross", "train")}
    return miniature(files, expected)


def artbench10() -> Miniature:
    names = {"train": ("a_the-wave.jpg", "b_mount-fuji.jpg"), "test": ("c_bridge.jpg",)}
    triples = [(part, label, name) for part in names for label in ("ukiyo_e", "post_impressionism") for name in names[part]]
    wrapper = "artbench-10-imagefolder-split"
    return miniature({}, {f"{wrapper}/{part}/{label}/{name}": (label, part) for part, label, name in triples})


def artbench10_whole() -> Miniature:
    """The archive without a split, with the authors' table beside it."""
    table = b"name,artist,url,is_public_domain,length,width,label,split,cifar_index\n"
    table += b"a_wave.jpg,a,https://example.org,True,900,1200,ukiyo_e,train,0\n"
    table += b"b_fields.jpg,b,https://example.org,True,900,1200,post_impressionism,test,1\n"
    expected = {"ukiyo_e/a_wave.jpg": ("ukiyo_e", "train"), "post_impressionism/b_fields.jpg": ("post_impressionism", "test")}
    wrapped = {f"artbench-10-imagefolder/{name}": caption for name, caption in expected.items()}
    return miniature({"ArtBench-10.csv": table}, wrapped)


def flowers102() -> Miniature:
    labels, sets = np.array([[77, 1, 102, 77]], np.uint8), {"trnid": [[1.0]], "valid": [[2.0]], "tstid": [[3.0, 4.0]]}
    lists = {"imagelabels.mat": mat(labels=labels), "setid.mat": mat(**sets)}
    names = (
        ("passion flower", "train"),
        ("pink primrose", "validation"),
        ("blackberry lily", "test"),
        ("passion flower", "test"),
    )
    return miniature(lists, {f"jpg/image_{number:05d}.jpg": caption for number, caption in enumerate(names, start=1)})


CAR_NAMES = ("AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012")
BOX = {"bbox_x1": 1, "bbox_y1": 2, "bbox_x2": 14, "bbox_y2": 15}


def cars() -> Miniature:
    train = [BOX | {"class": 2, "fname": "00001.jpg"}, BOX | {"class": 1, "fname": "00002.jpg"}]
    test = [BOX | {"class": 1, "fname": "00001.jpg"}]
    lists = {
        "stanford_cars/devkit/cars_meta.mat": mat(class_names=cells(CAR_NAMES)),
        "stanford_cars/devkit/cars_train_annos.mat": mat(annotations=structs(train)),
        "stanford_cars/devkit/cars_test_annos.mat": mat(annotations=structs([BOX | {"fname": "00001.jpg"}])),
        "stanford_cars/cars_test_annos_withlabels.mat": mat(annotations=structs(test)),
    }
    expected = {"cars_train/00001.jpg": (CAR_NAMES[1], "train"), "cars_train/00002.jpg": (CAR_NAMES[0], "train")}
    expected |= {"cars_test/00001.jpg": (CAR_NAMES[0], "test")}
    return miniature(lists, {f"stanford_cars/{name}": caption for name, caption in expected.items()})


def cars_together() -> Miniature:
    """The authors' later archive: all images in one folder and one list of them."""
    rows = [{"relative_im_path": f"car_ims/00000{i}.jpg"} | BOX | {"class": i % 2 + 1, "test": int(i > 2)} for i in (1, 2, 3)]
    lists = {"cars_annos.mat": mat(annotations=structs(rows), class_names=cells(CAR_NAMES))}
    return miniature(lists, {f"car_ims/00000{i}.jpg": (CAR_NAMES[i % 2], "test" if i > 2 else "train") for i in (1, 2, 3)})


MINIATURES = {
    "food-101": [food101],
    "sun397": [sun397],
    "df20m": [df20m],
    "caltech-101": [caltech101],
    "cub-200-2011": [cub200],
    "artbench-10": [artbench10, artbench10_whole],
    "flowers-102": [flowers102],
    "stanford-cars": [cars, cars_together],
}
