import json
import unicodedata
from collections import Counter

import numpy as np
import pytest
from helpers import add_lines, drawing, encoded

from handwriting import packing
from handwriting.dataset import LATEST, LINES, MANIFEST, REJECTS, Dataset, resolve
from handwriting.errors import AlphabetError, ConfigError, DataError, MissingError, StoreError
from handwriting.image import ImageConfig, read_line
from handwriting.labels import LabelConfig
from handwriting.packing import FROM_LABELS, PackConfig, pack_folder
from handwriting.store import LocalStore, join, open_store, read_json, write_json

TEXTS = {f"{n:02}.png": f"Số {n} Lý Nam Đế" for n in range(6)}
COUNTS = {"train": 6, "validation": 6, "test": 6}
KINDS = ["local", pytest.param("s3", marks=pytest.mark.servers)]


class Place:
    """A folder of labelled pictures, and where its datasets go."""

    def __init__(self, root):
        self.data, self.datasets = open_store(join(root, "data")), open_store(join(root, "datasets"))

    def pack(self, max_characters=200, **config):
        return pack_folder(self.data.root, self.datasets.root, PackConfig(**config),
                           LabelConfig(max_characters=max_characters))

    def pointer(self):
        return read_json(self.datasets, LATEST)["id"]

    def files(self):
        return {entry.key: entry.tag for entry in self.datasets.list()}

    def report(self):
        """The reasons in the rejects report, by picture."""
        return {reject["uri"].removeprefix(f"{self.data.root}/"): reject["reason"]
                for reject in read_json(self.datasets, REJECTS)}

    def index(self, uri):
        """The lines of a dataset by the key of their picture."""
        return {row["key"]: row for row in map(json.loads, open_store(uri).read(LINES).splitlines())}


def labelled(root):
    place = Place(root)
    for split in COUNTS:
        add_lines(place.data, split, TEXTS)
    return place


@pytest.fixture
def place(tmp_path):
    """Six lines a split in a local folder."""
    return labelled(str(tmp_path))


@pytest.fixture(params=KINDS)
def any_place(request, tmp_path):
    """The same in a local folder and in a bucket."""
    return labelled(str(tmp_path) if request.param == "local" else f"s3://{request.getfixturevalue('bucket')}/some")


@pytest.fixture
def reads(monkeypatch):
    """The sizes of all pictures read so far."""
    sizes = []

    def counted(data, config):
        sizes.append(len(data))
        return read_line(data, config)
    monkeypatch.setattr(packing, "read_line", counted)
    return sizes


def assert_pixels_are_those_of_the_pictures(place, uri, cache):
    dataset = Dataset(uri, cache)
    for line in dataset.all_lines:
        expected = read_line(place.data.read(line.key), dataset.manifest.image)
        np.testing.assert_array_equal(dataset.pixels(line), expected, err_msg=line.key)


def test_lines_come_back_as_their_pictures_and_texts(place, tmp_path):
    packed = place.pack()
    assert packed.splits == COUNTS and packed.read == 18 and packed.new and not packed.rejects
    assert_pixels_are_those_of_the_pictures(place, packed.uri, tmp_path / "cache")
    dataset = Dataset(place.datasets.root, tmp_path / "cache")
    assert dataset.uri == packed.uri
    for split in COUNTS:
        assert {line.key: line.text for line in dataset.lines(split)} == {
            f"{split}/images/{name}": text for name, text in TEXTS.items()}


def test_lines_of_different_widths_and_heights_come_back(place, tmp_path):
    for number, size in enumerate([(300, 64), (900, 40), (64, 64), (1200, 200), (333, 77)]):
        place.data.write(f"train/images/{number:02}.png", encoded(drawing(number, size)))
    packed = place.pack(image=ImageConfig(height=64))
    assert {row["width"] for row in place.index(packed.uri).values()} >= {294, 1425, 56, 384, 277}
    assert_pixels_are_those_of_the_pictures(place, packed.uri, tmp_path / "cache")


def test_many_small_shards_hold_the_same_lines_as_one(place, tmp_path, monkeypatch):
    one = place.pack()
    monkeypatch.setattr(packing, "SHARD_COLUMNS", 700)
    many = Place(str(tmp_path / "other"))
    many.data = place.data
    other = many.pack()
    assert len({row["shard"] for row in many.index(other.uri).values()}) > 5
    assert other.uri.rpartition("/")[2] == one.uri.rpartition("/")[2]  # the layout is no part of the identity
    assert_pixels_are_those_of_the_pictures(many, other.uri, tmp_path / "cache")


def test_new_data_is_read_once_and_the_rest_never_again(any_place, tmp_path, reads):
    first = any_place.pack()
    assert len(reads) == first.read == 18

    before = any_place.files()
    same = any_place.pack()
    assert (same.uri, same.splits, same.read, same.new) == (first.uri, COUNTS, 0, False)
    assert {key for key, tag in any_place.files().items() if before.get(key) != tag} <= {LATEST, REJECTS}

    add_lines(any_place.data, "train", {f"new{n}.png": "Hà Nội" for n in range(10)})
    grown = any_place.pack()
    assert len(reads) == 28 and grown.read == 10 and grown.new
    assert grown.splits == COUNTS | {"train": 16} and grown.uri != first.uri

    add_lines(any_place.data, "train", {"new3.png": "Đà Nẵng"})
    corrected = any_place.pack()
    assert len(reads) == 28 and corrected.read == 0 and corrected.new and corrected.splits == grown.splits
    assert corrected.uri not in (first.uri, grown.uri)
    assert any_place.index(corrected.uri)["train/images/new3.png"]["text"] == "Đà Nẵng"
    assert any_place.index(grown.uri)["train/images/new3.png"]["text"] == "Hà Nội"
    for number, packed in enumerate((first, grown, corrected)):
        assert_pixels_are_those_of_the_pictures(any_place, packed.uri, tmp_path / f"cache{number}")


def test_a_picture_replaced_under_its_name_is_read_again(place, tmp_path, reads):
    first = place.pack()
    place.data.write("test/images/03.png", encoded(drawing(12345)))
    second = place.pack()
    assert second.read == 1 and len(reads) == 19 and second.uri != first.uri
    assert_pixels_are_those_of_the_pictures(place, second.uri, tmp_path / "cache")


@pytest.mark.parametrize("image", [ImageConfig(height=32), ImageConfig(squeeze=0.75)])
def test_another_alphabet_is_another_dataset_and_another_size_reads_all_again(place, image):
    first = place.pack()
    other = place.pack(alphabet=FROM_LABELS)
    assert other.uri != first.uri and other.read == 0
    lower = place.pack(image=image)
    assert lower.uri not in (first.uri, other.uri) and lower.read == 18


def test_the_identity_does_not_depend_on_names_or_on_the_place(place, tmp_path):
    other = Place(str(tmp_path / "other"))
    for split in COUNTS:
        for name, text in reversed(TEXTS.items()):
            other.data.write(f"{split}/images/moved-{name}", place.data.read(f"{split}/images/{name}"))
            add_lines(other.data, split, {f"moved-{name}": text})
    assert other.pack().uri.rpartition("/")[2] == place.pack().uri.rpartition("/")[2]


def _missing(data):
    add_lines(data, "train", {"x.png": "Hà Nội"})
    data.delete("train/images/x.png")


def _picture(content):
    def add(data):
        add_lines(data, "train", {"x.png": "Hà Nội"})
        data.write("train/images/x.png", content)
    return add


def _text(text):
    return lambda data: add_lines(data, "train", {"x.png": text})


@pytest.mark.parametrize("add, reason", [
    (_missing, "missing picture"),
    (_picture(b""), "unreadable picture: empty"),
    (_picture(b"no picture"), "unreadable picture: not a picture"),
    (_picture(encoded(drawing())[:300]), "unreadable picture: truncated"),
    (_picture(encoded(drawing(size=(1, 1)))), "unreadable picture: too small"),
    (_picture(encoded(drawing(size=(9000, 60)))), "unreadable picture: too wide"),
    (_picture(encoded(drawing(7, (16, 64)))), "too narrow for its text"),
    (_text("Straße"), "outside the alphabet"),
    (_text("Hà Nội 😀"), "outside the alphabet"),
    (_text("a" * 500), "too long"),
    (_text(" \u200b\n"), "empty text"),
    (lambda data: write_json(data, "train/labels.json", TEXTS | {"x.png": 7}), "malformed task"),
    (lambda data: write_json(data, "train/labels.json", TEXTS | {"x.png": None}), "malformed task"),
], ids=["missing", "empty", "text", "truncated", "pixel", "wide", "narrow", "letter", "emoji", "500", "blank", "number",
        "null"])
def test_what_cannot_be_used_is_left_out_and_counted(place, add, reason):
    add(place.data)
    packed = place.pack()
    assert packed.splits == COUNTS
    assert place.report() == {"train/images/x.png": reason}
    assert packed.summary()["rejected"] == {reason: 1} and packed.metrics()["rejected"] == 1
    assert read_json(open_store(packed.uri), REJECTS) == read_json(place.datasets, REJECTS)


def test_500_characters_pass_where_they_are_allowed_and_fit(place):
    add_lines(place.data, "train", {"long.png": "ab" * 250})
    place.data.write("train/images/long.png", encoded(drawing(1, (2500, 64))))
    packed = place.pack(max_characters=500, image=ImageConfig(height=64))
    assert packed.splits == COUNTS | {"train": 7} and not packed.rejects


def test_a_text_fits_exactly_from_four_pixels_a_step(place):
    add_lines(place.data, "train", {"aa.png": "aa", "bb.png": "bb"})
    place.data.write("train/images/aa.png", encoded(drawing(1, (12, 64))))
    place.data.write("train/images/bb.png", encoded(drawing(2, (11, 64))))
    assert place.pack(image=ImageConfig(height=64)).splits == COUNTS | {"train": 7}
    assert place.report() == {"train/images/bb.png": "too narrow for its text"}


def test_it_says_how_wide_a_character_is_in_the_middle(place):
    for name in TEXTS:
        place.data.write(f"train/images/{name}", encoded(drawing(int(name[:2]), (1200, 64))))
        place.data.write(f"test/images/{name}", encoded(drawing(int(name[:2]) + 100, (420, 64))))
        place.data.write(f"validation/images/{name}", encoded(drawing(int(name[:2]) + 200, (150, 64))))
    assert set(map(len, TEXTS.values())) == {14}
    for squeeze, width in [(1.0, 30.0), (0.5, 15.0)]:
        packed = place.pack(image=ImageConfig(height=64, squeeze=squeeze))
        assert packed.summary()["character_width"] == packed.metrics()["character_width"] == width


def test_rejects_hold_no_text(place):
    add_lines(place.data, "train", {"x.png": "Mật khẩu ß", "y.png": "Mật khẩu " * 50})
    place.data.write("train/images/x.png", encoded(drawing(5, (8, 64))))
    assert len(place.pack().rejects) == 2
    assert "Mật".encode() not in place.datasets.read(REJECTS)


@pytest.mark.parametrize("splits, kept", [
    (("train", "test"), "test"), (("train", "validation"), "validation"), (("validation", "test"), "test"),
    (("user_data", "test"), "test"), (("train", "user_data"), "train"),
])
def test_of_one_picture_in_two_splits_the_more_trusted_is_kept(place, splits, kept):
    picture = encoded(drawing(999))
    for split in splits:
        place.data.write(f"{split}/images/twin.png", picture)
        add_lines(place.data, split, {"twin.png": "Huế"})
    packed = place.pack()
    (lost,) = set(splits) - {kept} if set(splits) != {"train", "user_data"} else {"user_data"}
    assert place.report() == {f"{lost}/images/twin.png": "same picture"}
    assert packed.splits == COUNTS | {kept: 7}
    assert f"{kept}/images/twin.png" in place.index(packed.uri)


def test_of_one_picture_twice_in_a_split_one_is_kept(place):
    place.data.write("test/images/copy.png", place.data.read("test/images/00.png"))
    add_lines(place.data, "test", {"copy.png": TEXTS["00.png"]})
    assert place.pack().splits == COUNTS
    assert Counter(place.report().values()) == {"same picture": 1}


def test_decomposed_labels_are_taken_composed(place):
    plain = place.pack()
    add_lines(place.data, "train", {name: unicodedata.normalize("NFD", text) for name, text in TEXTS.items()})
    packed = place.pack()
    assert packed.uri == plain.uri and not packed.rejects
    assert all(unicodedata.is_normalized("NFC", row["text"]) for row in place.index(packed.uri).values())


def test_user_data_joins_train(place, tmp_path):
    add_lines(place.data, "user_data", TEXTS)
    packed = place.pack()
    assert packed.splits == COUNTS | {"train": 12}
    train = Dataset(packed.uri, tmp_path / "cache").lines("train")
    assert sum(line.key.startswith("user_data/images/") for line in train) == 6


def test_the_alphabet_from_labels_holds_the_training_characters_alone(place, tmp_path):
    add_lines(place.data, "train", {"x.png": "ß"})
    add_lines(place.data, "user_data", {"x.png": "ø"})
    add_lines(place.data, "test", {"x.png": "ж"})
    packed = place.pack(alphabet=FROM_LABELS)
    alphabet = Dataset(packed.uri, tmp_path / "cache").manifest.alphabet
    assert alphabet == "".join(sorted(set("".join(TEXTS.values()) + "ßø")))
    assert place.report() == {"test/images/x.png": "outside the alphabet"}


def test_without_training_lines_there_is_no_alphabet_from_labels(place):
    place.data.delete("train/labels.json")
    with pytest.raises(DataError, match="train"):
        place.pack(alphabet=FROM_LABELS)


@pytest.mark.parametrize("alphabet, said", [("", "empty"), ("aa", "more than once")])
def test_an_unusable_alphabet_is_refused(place, alphabet, said):
    with pytest.raises(AlphabetError, match=said):
        place.pack(alphabet=alphabet)


def test_too_many_rejects_stop_the_step_and_name_the_report(place):
    add_lines(place.data, "train", {f"bad{n}.png": "ß" for n in range(5)})
    report = join(place.datasets.root, REJECTS)
    with pytest.raises(DataError, match="5 of 23.*5 x outside the alphabet.*20%") as caught:
        place.pack()
    assert report in str(caught.value)
    assert Counter(place.report().values()) == {"outside the alphabet": 5}
    assert not place.datasets.exists(LATEST)
    assert place.pack(max_rejects=5 / 23).splits == COUNTS


@pytest.mark.parametrize("alphabet", ["abc", FROM_LABELS])
def test_no_usable_line_stops_the_step_and_names_the_report(place, alphabet):
    for split in COUNTS:
        for name in TEXTS:
            place.data.delete(f"{split}/images/{name}")
    with pytest.raises(DataError, match="no usable line among 18.*18 x missing picture") as caught:
        place.pack(alphabet=alphabet, max_rejects=1)
    assert join(place.datasets.root, REJECTS) in str(caught.value)
    assert len(place.report()) == 18


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(share):
    with pytest.raises(ConfigError, match="max_rejects"):
        PackConfig(max_rejects=share)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_labels_is_refused(tmp_path, exists):
    if exists:
        (tmp_path / "data" / "train" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match="data has no labels"):
        Place(str(tmp_path)).pack()


@pytest.mark.parametrize("content, error", [
    (b"[]", DataError), (b'"text"', DataError), (b"null", DataError), (b"{", StoreError), (b"", StoreError),
    (b"\xff\xfe", StoreError),
])
def test_labels_that_are_no_object_are_refused_by_name(place, content, error):
    place.data.write("validation/labels.json", content)
    with pytest.raises(error, match="data/validation/labels.json"):
        place.pack()


def test_a_label_cannot_name_a_picture_elsewhere(place):
    place.data.write("secret.png", encoded(drawing(4)))
    write_json(place.data, "train/labels.json", TEXTS | {"../../secret.png": "Huế"})
    assert place.pack().splits == COUNTS
    assert list(place.report().values()) == ["missing picture"]


class FailingStore(LocalStore):
    """A folder that cannot be written to from some file on."""

    def __init__(self, folder, fatal):
        super().__init__(folder)
        self.fatal = fatal

    def write(self, key, data):
        if key.endswith(self.fatal):
            raise StoreError(f"{key}: the disk is full")
        super().write(key, data)

    def upload(self, path, key):
        if self.fatal in key:
            raise StoreError(f"{key}: the disk is full")
        super().upload(path, key)


@pytest.mark.parametrize("fatal", ["shards/", LINES, MANIFEST, LATEST])
def test_a_crash_leaves_the_old_dataset_whole_and_a_repeat_finishes(place, tmp_path, monkeypatch, fatal):
    old = place.pack()
    add_lines(place.data, "train", {f"new{n}.png": "Hà Nội" for n in range(3)})
    with monkeypatch.context() as patch:
        patch.setattr(packing, "open_store", lambda uri: FailingStore(uri, fatal))
        with pytest.raises(StoreError, match="disk is full"):
            place.pack()
    assert resolve(place.datasets.root, MANIFEST) == old.uri
    assert_pixels_are_those_of_the_pictures(place, place.datasets.root, tmp_path / "old")
    repeated = place.pack()
    assert repeated.splits == COUNTS | {"train": 9} and repeated.read == 3
    assert resolve(place.datasets.root, MANIFEST) == repeated.uri
    assert_pixels_are_those_of_the_pictures(place, repeated.uri, tmp_path / "new")


def test_a_vanishing_picture_is_rejected_not_fatal(place, monkeypatch):
    real = LocalStore.read

    def read(store, key):
        if key == "train/images/02.png":
            raise MissingError(f"{key} does not exist")
        return real(store, key)
    monkeypatch.setattr(LocalStore, "read", read)
    assert place.pack().splits == COUNTS | {"train": 5}
    assert place.report() == {"train/images/02.png": "missing picture"}


def test_a_failing_bucket_stops_the_step(place, monkeypatch):
    real = LocalStore.read

    def read(store, key):
        if key.endswith(".png"):
            raise StoreError(f"{key}: AccessDenied")
        return real(store, key)
    monkeypatch.setattr(LocalStore, "read", read)
    with pytest.raises(StoreError, match="AccessDenied"):
        place.pack()
    assert not place.datasets.exists(LATEST)


def shard_of(place, packed):
    return next(iter(place.index(packed.uri).values()))["shard"]


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:200] + b"\x80" + data[201:],
                                    lambda data: b""], ids=["cut", "changed", "empty"])
def test_a_damaged_shard_is_noticed_by_name(place, tmp_path, damage):
    packed = place.pack()
    shard = shard_of(place, packed)
    place.datasets.write(shard, damage(place.datasets.read(shard)))
    dataset = Dataset(packed.uri, tmp_path / "cache")
    with pytest.raises(DataError, match=f"{shard} is damaged"):
        dataset.pixels(dataset.all_lines[0])
    assert not list((tmp_path / "cache").iterdir())  # the next attempt fetches it again


def test_an_index_that_passes_the_end_of_its_shard_is_noticed(place, tmp_path):
    dataset = Dataset(place.pack().uri, tmp_path / "cache")
    with pytest.raises(DataError, match="shorter than its index"):
        dataset.pixels(dataset.all_lines[0]._replace(start=10**7))


@pytest.mark.parametrize("row", ['{"split": "train"}', "{", "[1, 2]", "7"])
def test_a_damaged_index_is_noticed_and_mended_by_packing_again(place, tmp_path, row):
    packed = place.pack()
    store = open_store(packed.uri)
    store.write(LINES, store.read(LINES) + row.encode())
    with pytest.raises(DataError, match="lines.jsonl is damaged"):
        Dataset(packed.uri, tmp_path / "cache")
    mended = place.pack()
    assert mended.uri == packed.uri and mended.new and mended.read == 18
    assert_pixels_are_those_of_the_pictures(place, packed.uri, tmp_path / "cache")


@pytest.mark.parametrize("change", [{"image": {"height": 64, "depth": 3}}, {"image": 64}, {"colour": "red"}])
def test_a_manifest_of_another_version_is_refused_and_replaced_by_packing_again(place, tmp_path, change):
    packed = place.pack()
    store = open_store(packed.uri)
    write_json(store, MANIFEST, read_json(store, MANIFEST) | change)
    with pytest.raises(DataError, match="not a manifest of this version"):
        Dataset(packed.uri, tmp_path / "cache")
    assert place.pack().uri == packed.uri
    assert_pixels_are_those_of_the_pictures(place, packed.uri, tmp_path / "cache")


@pytest.mark.parametrize("keys", [[MANIFEST], [LINES], "shards", "all"], ids=["manifest", "index", "shard", "all"])
def test_what_is_deleted_of_a_dataset_is_noticed_and_mended_by_packing_again(place, tmp_path, keys):
    packed = place.pack()
    store = open_store(packed.uri)
    names = [entry.key for entry in store.list()]
    keys = names if keys == "all" else [key for key in names if key.startswith("shards/")] if keys == "shards" else keys
    for key in keys:
        store.delete(key)
    with pytest.raises(MissingError):
        dataset = Dataset(packed.uri, tmp_path / "cache")
        dataset.pixels(dataset.all_lines[0])
    assert place.pack().uri == packed.uri
    assert_pixels_are_those_of_the_pictures(place, packed.uri, tmp_path / "cache")


def test_a_deleted_shard_that_newer_datasets_share_is_mended(place, tmp_path):
    shared = shard_of(place, place.pack())
    add_lines(place.data, "train", {"new.png": "Hà Nội"})
    grown = place.pack()
    place.datasets.delete(shared)
    mended = place.pack()
    assert mended.uri == grown.uri and mended.read == 18
    assert_pixels_are_those_of_the_pictures(place, mended.uri, tmp_path / "cache")


def test_a_dataset_is_found_by_its_uri_or_its_folder_and_else_missing(place, tmp_path):
    packed = place.pack()
    assert {Dataset(uri, tmp_path / "cache").uri for uri in (packed.uri, packed.uri + "/", place.datasets.root)} == {
        packed.uri}
    for uri in (place.data.root, str(tmp_path / "nowhere")):
        with pytest.raises(MissingError, match="neither manifest.json nor latest.json"):
            Dataset(uri, tmp_path / "cache")


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"id": 3}'])
def test_a_pointer_that_names_nothing_is_refused(place, tmp_path, content):
    place.datasets.write(LATEST, content)
    with pytest.raises(DataError, match="latest.json names nothing"):
        Dataset(place.datasets.root, tmp_path / "cache")


def test_a_split_without_lines_is_refused(place, tmp_path):
    place.data.delete("test/labels.json")
    with pytest.raises(DataError, match="no line in split 'test'"):
        Dataset(place.pack().uri, tmp_path / "cache").lines("test")


def test_shards_are_fetched_only_when_a_line_of_them_is_wanted_and_once(place, tmp_path):
    dataset = Dataset(place.pack().uri, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    first = dataset.pixels(dataset.all_lines[0])
    for entry in list(place.datasets.list()):
        place.datasets.delete(entry.key)
    np.testing.assert_array_equal(dataset.pixels(dataset.all_lines[0]), first)


def test_the_rejects_report_is_written_to_a_local_file_too(place, tmp_path):
    add_lines(place.data, "train", {"x.png": "ß"})
    packed = place.pack()
    packed.write_rejects(str(tmp_path / "rejects.json"))
    (reject,) = json.loads((tmp_path / "rejects.json").read_text("utf-8"))
    assert reject == {"task": None, "uri": join(place.data.root, "train/images/x.png"),
                      "reason": "outside the alphabet", "detail": "'ß' (U+00DF)"}
