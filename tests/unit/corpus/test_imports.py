import gzip
import subprocess
import sys


def test_text_and_json_lines_need_no_library_of_tables(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "c.jsonl").write_text('{"text": "line"}\n')
    (tmp_path / "d.csv").write_text("text\ncell\n")
    code = """if True:
        import sys
        from gpt2dist.corpus import Reading, cut, discover, read
        pieces = [piece for source in discover(sys.argv[1:]) for piece in cut(source, 1)]
        print(sum(1 for piece in pieces for _ in read(piece, Reading())))
        print({"pyarrow", "fsspec", "datasets", "pandas"} & set(sys.modules))"""
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:2] == ["3", "set()"]
