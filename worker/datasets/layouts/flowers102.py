"""Oxford Flowers-102 (Nilsback and Zisserman, ICVGIP 2008): numbered images, and MATLAB files of labels and of the split.

The files number the classes; their names stand on the authors' page alone, and here.
"""

from worker.datasets.layouts.files import Files, unreadable
from worker.datasets.layouts.layout import Format, Layout, Published, Row

LABELS = "imagelabels.mat"
SPLIT = "setid.mat"
SETS = {"train": "trnid", "validation": "valid", "test": "tstid"}
NAMES = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid,
bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris, globe-flower,
purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower, fritillary, red ginger,
grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet william, carnation, garden phlox,
love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort, siam tulip,
lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold, buttercup, oxeye daisy,
common dandelion, petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia,
pink-yellow dahlia, cautleya spicata, japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum,
spring crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple, morning glory,
passion flower, lotus, toad lily, anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia,
cyclamen, watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia, mallow,
mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
"""
CLASSES = [name.strip() for name in NAMES.split(",")]  # by number, from 1


def read(files: Files, layout: Layout) -> None:
    images, labels, sets = files.need("jpg/"), files.need(LABELS), files.need(SPLIT)
    layout.lists = {labels, sets}
    parts = zip(SETS, files.numbers(sets, *SETS.values()), strict=True)
    splits = {number: split for split, numbers in parts for number in numbers}
    (classes,) = files.numbers(labels, "labels")
    rows = []
    for number, label in enumerate(classes, start=1):
        if not 1 <= label <= len(CLASSES):
            raise unreadable(labels, f"{label!r} is no class from 1 to {len(CLASSES)}")
        rows.append(Row(labels, f"{images}image_{number:05d}.jpg", CLASSES[label - 1], splits.get(number, "")))
    layout.take(rows, files.files)


FORMAT = Format(
    "flowers-102",
    marks=((LABELS, SPLIT, "jpg/"),),
    read=read,
    published=Published(classes=102, images=8_189, splits={"train": 1_020, "validation": 1_020, "test": 6_149}),
)
