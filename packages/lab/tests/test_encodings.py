"""Engines find in a directory what others have encoded."""

import json
from contextlib import AsyncExitStack

import pytest

from shunter.lab.errors import ParamsError
from shunter.lab.shell.encodings import FILE, Encodings
from shunter.lab.testing import LabServer, lab_server

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.fixture
async def servers():
    """Make servers that share a directory: servers(directory, how many)."""
    async with AsyncExitStack() as stack:

        async def make(directory, count):
            made = (lab_server(speed=500, media_tokens=50, ec_storage=directory) for _ in range(count))
            return [await stack.enter_async_context(each) for each in made]

        yield make


async def look(http, server, text="what is it?"):
    content = [PICTURE, {"type": "text", "text": text}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "temperature": 0}
    async with http.post(f"{server.url}/v1/chat/completions", json=body) as answer:
        assert answer.status == 200
        return (await answer.json())["choices"][0]["message"]["content"]


async def test_what_one_engine_has_encoded_another_one_takes(http, servers, tmp_path):
    one, two = await servers(tmp_path / "not" / "there", 2)
    assert await look(http, one) == await look(http, two)
    assert [each.engine.tally.encodings["computed"] for each in (one, two)] == [1, 0]
    assert two.engine.tally.encodings["storage"] == 1


async def test_each_picture_has_a_folder_with_a_file_of_safetensors(http, servers, tmp_path):
    (server,) = await servers(tmp_path, 1)
    await look(http, server)
    ((folder,),) = ([*tmp_path.iterdir()],)
    assert [each.name for each in folder.iterdir()] == [FILE]
    data = (folder / FILE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert len(data) == 8 + length
    assert json.loads(data[8:])["__metadata__"]["tokens"] == "50"


async def test_of_a_file_only_the_name_counts(http, servers, tmp_path):
    one, two = await servers(tmp_path, 2)
    await look(http, one)
    next(tmp_path.glob(f"*/{FILE}")).write_bytes(b"\xff" * 7)
    await look(http, two)
    assert two.engine.tally.encodings["computed"] == 0


async def test_whatever_is_in_the_way_an_engine_encodes_itself_and_tells(http, servers, tmp_path):
    directory = tmp_path / "shared"
    one, two = await servers(directory, 2)
    await look(http, one)
    file = next(directory.glob(f"*/{FILE}"))
    file.unlink()
    file.mkdir()
    await look(http, two)
    assert (two.engine.tally.encodings["computed"], two.engine.tally.encodings_unsaved) == (1, 1)


async def test_an_engine_goes_on_without_its_directory(http, servers, tmp_path):
    directory = tmp_path / "shared"
    (server,) = await servers(directory, 1)
    directory.rmdir()
    assert await look(http, server)
    async with http.get(f"{server.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    assert 'shunter_lab_encodings_unsaved_total{engine="0",model_name="lab/llama-3-8b"} 1.0' in lines


def test_a_directory_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ParamsError, match="choose a directory to write to"):
        Encodings(tmp_path / "file")


def test_who_reads_text_only_has_nothing_to_share(tmp_path):
    with pytest.raises(ParamsError, match="give --media-tokens, too"):
        LabServer(ec_storage=tmp_path)
