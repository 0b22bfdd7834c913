"""``causalnet graph``: what it writes, where, and how it fails."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from causalnet.cli.main import main
from causalnet.graph import CausalGraph

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 32,
}
LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_hidden_layers": 80,
    "vocab_size": 128256,
}
STORIES = Path(__file__).parents[2].parent / "shared" / "models" / "stories260K"


@pytest.fixture
def model(tmp_path):
    """Return a checkpoint folder that holds a config and nothing else."""
    return config(tmp_path / "tiny", LLAMA).parent


def config(folder, fields):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(fields))
    return folder / "config.json"


@pytest.fixture
def run(capfdbinary):
    """Return a function that runs the command: exit status, bytes on stdout, lines on stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["graph", *map(str, arguments)])
        said = capfdbinary.readouterr()
        return stop.value.code, said.out, said.err.decode().splitlines()

    return call


def expected(fields=LLAMA, granularity="layer", name="tiny"):
    from transformers import LlamaConfig

    from causalnet.model.compile import compile_config

    kept = {key: value for key, value in fields.items() if key != "model_type"}
    return compile_config(LlamaConfig(**kept), granularity=granularity, name=name)


@pytest.mark.parametrize("granularity", ["layer", "head"])
@pytest.mark.parametrize(
    ("options", "shaped"),
    [
        ([], lambda graph: graph),
        (["--spine"], lambda graph: graph.spine()),
        (["--unroll", "3"], lambda graph: graph.unroll(3)),
        (["--spine", "--unroll", "3"], lambda graph: graph.spine().unroll(3)),
    ],
    ids=["dense", "spine", "unroll", "both"],
)
def test_what_is_written_reads_back_as_the_equal_graph(run, model, granularity, options, shaped):
    wanted = shaped(expected(granularity=granularity))
    for format, read in (("json", CausalGraph.from_json), ("graphml", CausalGraph.from_graphml)):
        code, out, err = run(model, "--granularity", granularity, "--format", format, *options)
        assert (code, err) == (0, [])
        found = read(out.decode())
        assert found == wanted
        assert (found.name, found.blocks, found.meta) == ("tiny", wanted.blocks, wanted.meta)
    code, out, err = run(model, "--granularity", granularity, *options)
    assert (code, err) == (0, [])
    dot = out.decode()
    edges = re.findall(r'^  "([^"]+)" -> "([^"]+)";$', dot, flags=re.MULTILINE)
    nodes = re.findall(r'^  "([^"]+)" \[kind=', dot, flags=re.MULTILINE)
    assert {f"{source} -> {target}" for source, target in edges} == {str(edge) for edge in wanted.edges()}
    assert len(edges) == wanted.number_of_edges
    assert sorted(nodes) == sorted(map(str, wanted.nodes))


def test_a_config_file_does_and_takes_its_name_from_the_folder(run, tmp_path, model):
    assert run(model / "config.json") == run(model)
    other = model.rename(tmp_path / "else") / "config.json"
    mine = other.rename(other.with_name("mine.json"))
    code, out, _ = run(mine)
    assert code == 0
    assert b'label="mine"' in out


@pytest.mark.skipif(not STORIES.is_dir(), reason="the shared stories260K checkpoint is not here")
def test_stories260k(run):
    code, out, err = run(STORIES, "--format", "json")
    graph = CausalGraph.from_json(out.decode())
    assert (code, err, graph.layers, len(graph)) == (0, [], 5, 13)
    # Each of the 13 nodes reads all earlier ones; nothing but the contributions and the norm reaches the logits.
    assert graph.number_of_edges == 13 * 12 // 2


@pytest.mark.parametrize("ending", ["dot", "gv", "json", "graphml", "svg", "pdf", "png"])
def test_the_ending_of_the_file_tells_the_format(run, model, tmp_path, ending):
    out = tmp_path / "new" / f"graph.{ending}"
    assert run(model, "-o", out) == (0, b"", [])
    content = out.read_bytes()
    starts = {"png": b"\x89PNG", "pdf": b"%PDF"}
    if ending in starts:
        assert content.startswith(starts[ending])
    elif ending == "svg":
        ids = {element.get("id") for element in ElementTree.fromstring(content).iter()}
        assert {f"node-{node}" for node in expected().nodes} <= ids
    else:
        assert run(model, "--format", {"gv": "dot"}.get(ending, ending)) == (0, content, [])


def test_a_named_format_wins_over_the_ending(run, model, tmp_path):
    out = tmp_path / "graph.svg"
    assert run(model, "--format", "json", "--out", out) == (0, b"", [])
    assert CausalGraph.from_json(out.read_text()) == expected()


def test_pictures_go_to_a_pipe_and_not_to_a_terminal(run, model, monkeypatch):
    code, out, err = run(model, "--format", "png")
    assert (code, out[:4], err) == (0, b"\x89PNG", [])
    code, out, err = run(model, "--format", "svg")
    assert (code, err) == (0, [])
    assert ElementTree.fromstring(out).tag.endswith("svg")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda stream: True)
    for format in ("png", "pdf"):
        code, out, err = run(model, "--format", format)
        assert (code, out, len(err)) == (2, b"", 1)
        assert "-o" in err[0]
    assert run(model, "--format", "svg")[0] == 0


def test_heads_and_positions_are_drawn(run, model):
    _, layers, _ = run(model, "--format", "svg")
    _, heads, _ = run(model, "--format", "svg", "--granularity", "head")
    assert b"attn[1].head[3]" in heads
    assert b"attn[1].head[3]" not in layers
    code, unrolled, err = run(model, "--format", "svg", "--unroll", 2)
    titles = {element.text for element in ElementTree.fromstring(unrolled).iter() if element.tag.endswith("title")}
    assert (code, err) == (0, [])
    assert {str(node) for node in expected().unroll(2).nodes} <= titles
    assert "embed@0->attn[0]@1" in titles


def test_without_graphviz_dot_is_written(run, model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = run(model, "--format", "svg")
    assert (code, len(err)) == (0, 1)
    assert out.startswith(b"digraph")
    assert "warning" in err[0]
    assert "apt install graphviz" in err[0]
    code, out, err = run(model, "-o", tmp_path / "a.pdf")
    assert (code, out, len(err)) == (0, b"", 1)
    assert str(tmp_path / "a.dot") in err[0]
    assert not (tmp_path / "a.pdf").exists()
    assert (tmp_path / "a.dot").read_bytes().startswith(b"digraph")
    # Texts need no Graphviz.
    assert run(model, "-o", tmp_path / "b.dot") == (0, b"", [])


def test_above_a_million_edges_the_sparse_form_is_written(run, tmp_path):
    path = config(tmp_path / "large", LLAMA_70B)
    code, out, err = run(path, "--granularity", "head", "--format", "graphml")
    assert code == 0
    assert len(err) == 1
    assert "13,577,363 edges" in err[0]
    assert "--spine" in err[0]
    found = CausalGraph.from_graphml(out.decode())
    wanted = expected(LLAMA_70B, "head", "large")
    assert found == wanted.spine()
    assert found.without_resid().number_of_edges == wanted.number_of_edges == 13_577_363
    assert run(path, "--granularity", "head", "--format", "graphml", "--spine") == (0, out, [])


def test_a_llama_70b_at_head_granularity_is_light(tmp_path):
    path = config(tmp_path / "large", LLAMA_70B)
    program = f"""
import json, resource, time
import torch, transformers
from causalnet.model.compile import compile_config
from causalnet.model.load import load_config
from transformers import AutoModelForCausalLM
transformers.LlamaConfig, transformers.LlamaForCausalLM
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
imports, start = peak(), time.perf_counter()
graph = compile_config(load_config({str(path)!r}), granularity="head")
seconds = time.perf_counter() - start
start = time.perf_counter()
below = graph.descendants("attn[40].head[3]")
query = time.perf_counter() - start
print(json.dumps(dict(seconds=seconds, query=query, imports=imports, peak=peak(), nodes=len(graph), below=len(below),
                      edges=graph.number_of_edges, stored=len(graph.extra) + len(graph.missing))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    print(
        f"{found['seconds']:.2f} s after imports, desc in {1000 * found['query']:.1f} ms, peak {found['peak']:.0f} MB"
    )
    assert found["nodes"] == 80 * (64 + 1 + 1) + 3
    assert found["edges"] == 13_577_363
    assert found["stored"] <= 1  # norm -> logits; every other edge follows from the layers
    assert found["below"] == 1 + 39 * 65 + 2  # biases are constants
    assert found["peak"] - found["imports"] < 500


FAULTS = {
    "no such folder": (["{nowhere}"], "no model folder"),
    "no config in the folder": (["{empty}"], "no config.json"),
    "not JSON": (["{broken}"], "not readable as JSON"),
    "not a config": (["{listed}"], "a config is a JSON object"),
    "no such family": (["{strange}"], "nosuch"),
    "not a language model": (["{vit}"], "vit"),
    "an encoder-decoder": (["{t5}"], "encoder–decoder"),
    "a state-space trunk": (["{mamba}"], "state-space"),
    "no such format": (["{model}", "--format", "grapml"], "did you mean 'graphml'"),
    "no such granularity": (["{model}", "--granularity", "heads"], "did you mean 'head'"),
    "an unknown ending": (["{model}", "-o", "{empty}/graph.txt"], "legal: .dot"),
    "no ending": (["{model}", "-o", "{empty}/graph"], "--format"),
    "a folder in the way": (["{model}", "-o", "{folder.svg}"], "folder.svg"),
    "no positions": (["{model}", "--unroll", "0"], "--unroll"),
    "positions in words": (["{model}", "--unroll", "two"], "--unroll"),
    "too many positions": (["{model}", "--unroll", "1000000"], "unroll fewer positions"),
    "too many edges even in the sparse form": (["{model}", "--unroll", "1000"], "unroll fewer positions"),
    "too many edges to draw": (["{model}", "--unroll", "70", "--format", "svg"], "unroll fewer positions"),
    "far too many positions to draw": (["{model}", "--unroll", "9999", "--format", "svg"], "unroll fewer positions"),
    "no model": ([], "MODEL"),
    "no such option": (["{model}", "--spin"], "--spin"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_one_line_and_status_2(run, tmp_path, model, fault):
    arguments, words = FAULTS[fault]
    places = {"nowhere": tmp_path / "nowhere", "model": model}
    for name in ("empty", "broken", "listed", "folder.svg"):
        places[name] = tmp_path / name
        places[name].mkdir()
    (places["broken"] / "config.json").write_text("{")
    (places["listed"] / "config.json").write_text("[1]")
    for name, kind in (("strange", "nosuch"), ("vit", "vit"), ("t5", "t5"), ("mamba", "mamba")):
        places[name] = config(tmp_path / name, {"model_type": kind})
    filled = [re.sub(r"\{(.*?)\}", lambda match: str(places[match[1]]), argument) for argument in arguments]
    code, out, err = run(*filled)
    assert (code, out, len(err)) == (2, b"", 1), err
    assert err[0].startswith("causalnet: ")
    assert words in err[0]
    assert not list(places["empty"].iterdir())


def test_help_shows_examples(run):
    code, out, err = run("--help")
    assert (code, err) == (0, [])
    assert b"causalnet graph openai-community/gpt2 -o gpt2.svg" in out
