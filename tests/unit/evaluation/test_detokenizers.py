import importlib.util

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2dist.evaluation.detokenizers import DETOKENIZERS, wikitext

KNOWN = {
    ' = Robert <unk> = \n \n He said : " all @-@ new , 1 @,@ 000 @.@ 5 " . \n': (
        ' = Robert <unk> =\n\nHe said: "all-new, 1,000.5".\n'
    ),
    "the boys ' ( small ) house 's [ old ] { door } ; 30 ° C ! = = = Title = = = N of N .": (
        "the boys'(small) house's [old] {door}; 30°C! === Title === 1 of 1 ."
    ),
    "' a ' quote ' and ' = = = = Deep = = = = ? yes ,no": "'a' quote 'and' ==== Deep ====? yes ,no",
}
"""What lm-evaluation-harness 0.4.13 makes of a text."""
SIGNS = st.sampled_from([*" \n:;.!?,@-()[]{}\"'=°Ns/5a", " @-@ ", " 's", "= = =", " . ", " ( ", " ' "])


@pytest.fixture(scope="module")
def harness():
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed (pip install 'gpt2dist[lm-eval]')")
    from lm_eval.tasks.wikitext import preprocess_wikitext

    return preprocess_wikitext


@pytest.mark.parametrize("text", KNOWN)
def test_wikitext_as_the_harness_undoes_it(text):
    assert wikitext(text) == KNOWN[text]


@settings(max_examples=500, deadline=None)
@given(pieces=st.lists(SIGNS, max_size=40))
def test_any_text_as_the_harness_undoes_it(harness, pieces):
    text = "".join(pieces)
    assert wikitext(text) == harness.wikitext_detokenizer({"page": text})
    _, words = harness.process_results({"page": text}, [0.0])["word_perplexity"]
    assert DETOKENIZERS["wikitext"].count_words(text) == words


def test_none_leaves_the_text_and_counts_words_as_preprocess_does():
    plain = DETOKENIZERS["none"]
    assert plain.clean(" a , b ") == " a , b "
    assert plain.count_words(" a , b\u2003c\n") == 4
