from scripts.visualize import main


def test_attention_depends_on_the_prompt_and_fits_the_context(eagerly, trained_run, tmp_path, run):
    pictures = set()
    for prompt in (["--prompt", "the fox"], ["--prompt", "the $ vex"], ["--json"]):
        code, output, errors = run(main, trained_run, *prompt, "--output", tmp_path / "new")
        assert (code, errors) == (0, [f"wrote {tmp_path / 'new' / 'attention.png'}"])
        assert output == ("[]\n" if prompt == ["--json"] else "")  # no learned rotations
        pictures.add((tmp_path / "new" / "attention.png").read_bytes())
    assert len(pictures) == 3
    _, _, errors = run(main, trained_run, "--prompt", "a" * 17, "--output", tmp_path / "other")
    assert errors == ["error: --prompt must have 2 to 16 tokens, got 17"]
    assert not (tmp_path / "other").exists()
