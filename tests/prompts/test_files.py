import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from causalnet.errors import PromptError
from causalnet.prompts import Prompts

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_jsonl_fields(tmp_path):
    lines = [
        '{"prompt": "Big Ben is in", "answer": "London", "subject": "Big Ben", "relation_id": "P131", "year": 1859}',
        "",
        '{"prompt": "Line\\u2028sep is in", "extra": [1, 2], "flag": true, "none": null}',
        '"A bare text"',
    ]
    prompts = Prompts.from_file(written(tmp_path, "facts.jsonl", "\r\n".join(lines) + "\n"))
    first, second, third = prompts
    assert (first.text, first.answer, first.spans) == ("Big Ben is in", "London", {"subject": "Big Ben"})
    assert first.features == {"relation": "P131", "relation_id": "P131", "year": 1859}
    assert second.features == {"flag": True, "none": None}
    assert (third.text, third.answer) == ("A bare text", None)
    assert prompts.name == "facts.jsonl"
    assert prompts.notes == (
        "1 blank line skipped",
        "field 'extra' of 1 record was not read (not a text, number or boolean)",
    )
    assert second.origin == "facts.jsonl, line 3"


def test_raw_line_separators_inside_json_do_not_end_a_line(tmp_path):
    path = written(tmp_path, "a.jsonl", json.dumps({"prompt": "a\u2028b\x85c"}, ensure_ascii=False))
    assert Prompts.from_file(path).texts == ("a\u2028b\x85c",)


def test_json_list_and_one_object_and_lines_in_a_json_file(tmp_path):
    rows = [{"prompt": "a", "known_id": 1}, {"prompt": "b"}]
    pretty = Prompts.from_file(written(tmp_path, "a.json", json.dumps(rows, indent=1)))
    assert pretty.texts == ("a", "b")
    assert pretty[1].origin == "a.json, line 6"
    assert Prompts.from_file(written(tmp_path, "b.json", json.dumps(rows))) == pretty
    assert Prompts.from_file(written(tmp_path, "c.json", "\n".join(map(json.dumps, rows)))) == pretty
    assert Prompts.from_file(written(tmp_path, "d.jsonl", json.dumps(rows))) == pretty
    assert Prompts.from_file(written(tmp_path, "noending", json.dumps(rows))) == pretty
    assert Prompts.from_file(written(tmp_path, "e.json", json.dumps(rows[0], indent=2))) == pretty[:1]
    assert Prompts.from_file(written(tmp_path, "f.json", '["x", "y"]')).texts == ("x", "y")


COUNTERFACT = {
    "case_id": 0,
    "pararel_idx": 2796,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Danielle Darrieux, a native"],
    "neighborhood_prompts": ["The mother tongue of Léon Blum is"],
}


def test_counterfact(tmp_path):
    prompts = Prompts.from_file(written(tmp_path, "counterfact.json", json.dumps([COUNTERFACT])))
    prompt = prompts[0]
    assert prompt.text == "The mother tongue of Danielle Darrieux is"
    assert (prompt.answer, prompt.spans["subject"]) == ("French", "Danielle Darrieux")
    assert prompt.features["relation"] == "P103"
    assert prompt.features["target_new"] == "English"
    assert prompt.features["case_id"] == 0
    assert any("paraphrase_prompts" in note for note in prompts.notes)
    broken = {**COUNTERFACT, "requested_rewrite": {"prompt": "The mother tongue of {} is"}}
    with pytest.raises(
        PromptError, match=r"line 1: 'requested_rewrite' is not as CounterFact has it \(KeyError: 'subject'\)"
    ):
        Prompts.from_file(written(tmp_path, "counterfact.json", json.dumps([broken])))


def test_a_template_tells_which_of_two_occurrences_is_the_subject(tmp_path):
    rewrite = {**COUNTERFACT["requested_rewrite"], "prompt": "In French, {} speaks", "subject": "French"}
    prompts = Prompts.from_records([{"requested_rewrite": rewrite}])
    assert prompts[0].text == "In French, French speaks"
    assert prompts[0].spans["subject"] == (11, 17)


def test_csv(tmp_path):
    table = '\ufeff,clean,corrupted,label,code,share\n0,"Big Ben, ""the"" tower",Other,01,7,0.5\n'
    table += '1,"two\nlines",Other,02,,1\n'
    prompts = Prompts.from_file(written(tmp_path, "pairs.csv", table))
    assert prompts.texts == ('Big Ben, "the" tower', "two\nlines")
    assert prompts[0].pairs["corrupt"].text == "Other"
    assert prompts[0].features == {"label": "01", "code": 7, "share": 0.5}
    assert prompts[1].features == {"label": "02", "code": None, "share": 1.0}
    assert prompts[1].origin == "pairs.csv, line 3"
    assert "a column without a name was not read" in prompts.notes
    tsv = Prompts.from_file(written(tmp_path, "a.tsv", "prompt\tanswer\n12, 13\t14\nx\t\n"))
    assert (tsv.texts, tsv.answers) == (("12, 13", "x"), ("14", None))


def test_text(tmp_path):
    path = written(tmp_path, "a.txt", "one \r\n\n<|endoftext|>\n two\n\n")
    prompts = Prompts.from_file(path)
    assert prompts.texts == ("one ", " two")
    assert prompts[1].origin == "a.txt, line 4"
    assert prompts.notes == ("2 blank lines skipped", "1 separator line <|endoftext|> skipped")
    assert Prompts.from_file(written(tmp_path, "b.csv", "one\ntwo\n"), format="text").texts == ("one", "two")


BAD = [
    ("a.jsonl", "", "a.jsonl: the file is empty"),
    ("a.jsonl", " \n\n", "the file is empty"),
    ("a.json", "[]", "there is no prompt in it"),
    ("a.csv", "prompt\n", "there is no prompt in it"),
    ("a.csv", '""\n', "there is no prompt in it"),
    ("a.txt", "<|endoftext|>\n", "there is no prompt in it"),
    ("a.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"\n', "a.jsonl, line 3: is not JSON: Expecting ',' delimiter"),
    ("a.jsonl", '{"prompt": "a"}\n{"prompt": ""}\n', "a.jsonl, line 2: empty prompt"),
    ("a.jsonl", '{"prompt": "a"}\n{"prompt": null}\n', "a.jsonl, line 2: empty prompt"),
    ("a.jsonl", '{"prompt": "a"}\n{"prompt": 5}\n', "line 2: 'prompt' must be a text, got the number 5"),
    ("a.jsonl", '{"prompt": "a"}\n[1]\n', "line 2: a record must be an object, got a list"),
    ("a.jsonl", "3\n", "line 1: a record must be an object, got the number 3"),
    ("a.jsonl", '{"promt": "a"}\n', "line 1: there is no field 'prompt' (it has promt); did you mean 'prompt'?"),
    ("a.jsonl", "{}\n", "there is no field 'prompt' (it has no field at all)"),
    ("a.jsonl", '{"prompt": "a", "answer": 5}\n', "'answer' must be a text, got the number 5; write it as a text: '5'"),
    ("a.jsonl", '{"prompt": "a", "answer": ["x"]}\n', "'answer' must be a text, got a list"),
    ("a.jsonl", '{"prompt": "a", "subject": 5}\n', "'subject' must be a text"),
    ("a.jsonl", '{"prompt": "a", "spans": []}\n', "'spans' must be an object of names and values, got a list"),
    ("a.jsonl", '{"prompt": "a", "spans": {"s": [0, 9]}}\n', "line 1: 'a': span 's' is (0, 9), outside the text"),
    (
        "a.jsonl",
        '{"prompt": "a", "subject": "a", "spans": {"subject": "b"}}\n',
        "'subject' is given twice, as b and as a",
    ),
    ("a.jsonl", '{"prompt": "a", "year": 1, "features": {"year": 2}}\n', "'year' is given twice, as 2 and as 1"),
    ("a.jsonl", '{"prompt": "a", "features": {"f": [1]}}\n', "feature 'f' must be a text, number, boolean or None"),
    ("a.jsonl", '{"prompt": "a", "pairs": {"c": {"answer": "b"}}}\n', "line 1, pair 'c': there is no field 'prompt'"),
    ("a.jsonl", '{"prompt": "a", "f": NaN}\n', "line 1: NaN is not JSON; write null"),
    ("a.jsonl", '{"prompt": "a\\ud800"}\n', "the text holds half a surrogate pair"),
    ("a.jsonl", "[" * 100_000, "nested too deeply"),
    ("a.jsonl", '{"prompt": ' + "[" * 100_000 + "\n", "nested too deeply"),
    ("a.jsonl", '{"prompt": "a", "n": ' + "1" * 5000 + "}\n", "line 1: cannot be read: Exceeds the limit"),
    ("a.json", '[{"prompt": "a"},\n {"prompt": "b"\n}, {]', "line 3: is not JSON"),
    ("a.json", '[{"prompt": "a"}\n {"prompt": "b"}]', "line 2: is not JSON: expected ',' or ']'"),
    ("a.json", '[{"prompt": "a"}]\nx', "line 2: is not JSON: there is something after the list"),
    ("a.json", '[{"prompt": "a"},\n{"prompt": Infinity}]', "line 2: Infinity is not JSON"),
    ("a.json", '[{"prompt": "a"},\n{"prompt": 3}]', "line 2: 'prompt' must be a text"),
    ("a.json", '[{"prompt": "a"}', "expected ',' or ']'"),
    ("a.json", '{"prompts": ["a"]}', "there is no field 'prompt' (it has prompts)"),
    ("a.csv", "prompt,answer\na,b\nc\n", "a.csv, line 3: has 1 fields where the header has 2"),
    ("a.csv", 'prompt,answer\n"a\nb",c\n,d\n', "a.csv, line 4: empty prompt"),
    ("a.csv", 'prompt\n"a', "is not CSV: unexpected end of data"),
    ("a.csv", "question,answer\na,b\n", "line 2: there is no field 'prompt' (it has question, answer)"),
    ("a.csv", "prompt,prompt\na,b\n", "line 1: the column 'prompt' occurs twice"),
    ("a.txt", b"one\ntwo\xff\n", "a.txt, line 2: is not UTF-8 text (byte 0xff)"),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD)
def test_bad_files_say_where_and_what(tmp_path, name, content, words):
    with pytest.raises(PromptError) as caught:
        Prompts.from_file(written(tmp_path, name, content))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_missing_files_name_the_nearest(tmp_path):
    written(tmp_path, "known_1000.json", "[]")
    with pytest.raises(PromptError, match=r"no such file; did you mean '.*known_1000\.json'"):
        Prompts.from_file(tmp_path / "known_100.json")
    with pytest.raises(PromptError, match="does not exist either"):
        Prompts.from_file(tmp_path / "nowhere" / "a.json")
    with pytest.raises(PromptError, match="is a folder"):
        Prompts.from_file(tmp_path)
    with pytest.raises(PromptError, match="unknown prompt format 'jsonll'; did you mean 'jsonl'"):
        Prompts.from_file(written(tmp_path, "a.txt", "a"), format="jsonll")
    with pytest.raises(PromptError, match="cannot be written"):
        Prompts(("a",)).to_jsonl(tmp_path / "nowhere" / "a.jsonl")


def test_duplicates_are_kept_and_counted(tmp_path):
    prompts = Prompts.from_file(written(tmp_path, "a.txt", "one\ntwo\none\n"))
    assert prompts.texts == ("one", "two", "one")
    assert prompts.notes == ("1 of 3 prompts repeat an earlier one exactly (kept)",)


def test_records_name_the_record():
    with pytest.raises(PromptError, match="record 1: 'prompt' must be a text"):
        Prompts.from_records([{"prompt": "a"}, {"prompt": 2}])
    with pytest.raises(PromptError, match="got one mapping"):
        Prompts.from_records({"prompt": "a"})
    with pytest.raises(PromptError, match="no prompts were given"):
        Prompts.from_records([])


def test_own_columns_of_pairs():
    record = {
        "clean_prefix": "The men",
        "patch_prefix": "The man",
        "clean_answer": " go",
        "patch_answer": " goes",
        "case": "plural",
    }
    prompt = Prompts.from_records([record])[0]
    assert (prompt.text, prompt.answer, prompt.features) == ("The men", " go", {"case": "plural"})
    assert (prompt.pairs["corrupt"].text, prompt.pairs["corrupt"].answer) == ("The man", " goes")
    both = Prompts.from_records([{"prompt": "a", "corrupted": "b", "corrupt_subject": "b", "corrupted_hard": "c"}])[0]
    assert both.pairs["corrupt"].spans["subject"] == "b"
    assert both.pairs["corrupted_hard"].text == "c"


@given(st.text(max_size=60), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a"]))
def test_arbitrary_text_gives_prompts_or_a_prompt_error(tmp_path_factory, text, name):
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        count, message = len(Prompts.from_file(path)), name
    except PromptError as error:
        count, message = 1, str(error)
    assert count > 0
    assert name in message


@pytest.mark.parametrize(
    ("file", "count", "pairs"),
    [
        ("known_1000/known_1000.json", 1209, ()),
        ("tasks/ioi.csv", 499, ("corrupt", "corrupted_hard")),
        ("tasks/greater_than.csv", 1000, ("corrupt",)),
        ("tasks/sva_simple.json", 480, ("corrupt",)),
        ("tasks/tinystories_sample.txt", 12600, ()),
    ],
)
def test_known_data_sets_load_as_they_are(file, count, pairs):
    path = SHARED / file
    if not path.exists():
        pytest.skip(f"{file} is not there")
    prompts = Prompts.from_file(path)
    assert len(prompts) == count
    assert prompts.pair_names == pairs
    if "known" in file:
        assert all(prompt.answer and prompt.text.count(str(prompt.spans["subject"])) == 1 for prompt in prompts)
        assert len(set(prompts.feature("relation"))) == 33
        assert len(set(prompts.answers)) == 238
