"""Prices of a config's probes, and what has none."""

from experiments import prices


def test_every_probe_is_priced_on_a_config_or_says_why_it_refuses_it(capsys):
    assert prices.main(["tests/experiments/tiny.py"]) == 0
    printed = capsys.readouterr().out
    assert "priced on tests/experiments/tiny.py" in printed and "a train step takes" in printed and "of training" in printed
    assert "refused: no split has" in " ".join(printed.split())  # the task has no reasoning that could be interrupted


def test_what_has_no_prices_is_one_line(capsys):
    for name, message in (("rlvr_sparsty", "did you mean 'rlvr_sparsity'"), ("coherence_labels", "chooses no probes")):
        assert prices.main([name]) == 2
        assert message in capsys.readouterr().err
