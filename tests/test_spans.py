"""Which tokens a pooling takes: character ranges, the assistant's words, what follows a marker."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import probes
from probes.pooling import After, pool_name, pooling_weights
from probes.tokens import Tokens, encode
from tests.conftest import TEXTS, tiny_model, tiny_tokenizer
from tests.test_capture import TOLERANCE, by_hand

ODD = "naïve 🦊🚀 日本\n\n  two  spaces\tor — three. "
TEXT = st.text(st.sampled_from([*"abc .\n\t", "ï", "—", "日", "🦊", "\u00a0"]), min_size=1, max_size=24)  # fmt: skip


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """As GPT-2 does it (offsets without the space), as SentencePiece does it, and ours, with a BOS."""
    if kind == "bytes":
        return tiny_tokenizer()
    if kind == "trimmed":
        trimmed = copy.deepcopy(tiny_tokenizer())
        trimmed.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        return trimmed
    pieces = Tokenizer(models.BPE(byte_fallback=True, unk_token="<pad>"))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    pieces.decoder = decoders.Metaspace()
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<s>", "</s>", *bytes_], show_progress=False
    )
    pieces.train_from_iterator(TEXTS, trainer)
    pieces.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=pieces, bos_token="<s>", pad_token="<pad>")


TOKENIZERS = {kind: tokenizer_of(kind) for kind in ("bytes", "trimmed", "pieces")}


def taken(tokenizer, text, pool) -> list[tuple[int, int]]:
    """Character ranges of the tokens that a pooling takes of one text."""
    tokens = encode(tokenizer, [text])[0]
    weights = pooling_weights([tokens], pool if isinstance(pool, (str, After)) else [pool])[0]
    assert weights.sum().item() == pytest.approx(1)
    assert len(set(weights[weights > 0].tolist())) == 1
    return [tokens.offsets[k] for k in weights.nonzero().flatten().tolist()]


def words(text, ranges) -> list[str]:
    return [text[first:last] for first, last in ranges]


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(sorted(TOKENIZERS)), text=TEXT, data=st.data())
def test_a_token_counts_if_all_of_it_or_a_letter_of_it_lies_in_the_range(kind, text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    tokens = encode(TOKENIZERS[kind], [text])[0]
    wanted = []
    for position, (first, last) in enumerate(tokens.offsets):
        own, inside = set(range(first, last)), set(range(first, last)) & set(range(start, end))
        letters = {index for index in inside if not text[index].isspace()}
        wanted.append(position >= tokens.bos and bool(inside) and (bool(letters) or inside == own))
    if not any(wanted):
        with pytest.raises(probes.DataError, match="covers no token"):
            pooling_weights([tokens], [(start, end)])
        return
    weights = pooling_weights([tokens], [(start, end)])[0]
    assert (weights > 0).tolist() == wanted
    # every letter of the range is read, unless the tokenizer drops it
    seen = {i for k, w in enumerate(wanted) if w for i in range(*tokens.offsets[k])}
    known = {i for first, last in tokens.offsets for i in range(first, last)}
    assert {i for i in range(start, end) if not text[i].isspace()} & known <= seen


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_a_range_at_a_word_takes_the_token_with_the_space_before_it_and_no_neighbour(kind):
    text = "Nobody had asked the gardener about the apples"
    start = text.index("asked")
    for edge in (start, start - 1):
        found = taken(TOKENIZERS[kind], text, (edge, start + 5))
        assert "".join(words(text, found)).strip() == "asked"
    # up to and with the space before " asked": the next word is not in it
    assert "asked" not in "".join(words(text, taken(TOKENIZERS[kind], text, (0, start))))


def test_white_space_counts_as_its_own_tokens_and_not_as_a_part_of_a_word():
    tokenizer = TOKENIZERS["bytes"]
    text = "Rain fell.\n\nThe ferry left."
    breaks = text.index("\n")
    assert words(text, taken(tokenizer, text, (breaks, breaks + 2))) == ["\n", "\n"]
    space = text.index(" ferry")
    assert (space, space + 1) not in encode(tokenizer, [text])[0].offsets
    with pytest.raises(probes.DataError, match="the space before a word may belong to the word"):
        taken(tokenizer, text, (space, space + 1))


def test_a_character_of_several_tokens_counts_with_all_of_them():
    fox = ODD.index("🦊")
    assert taken(TOKENIZERS["bytes"], ODD, (fox, fox + 1)) == [(fox, fox + 1)] * 4


def test_tokens_without_characters_and_bos_written_in_the_text_never_count():
    text = "Rain fell."
    bare = encode(TOKENIZERS["pieces"], [text])[0]
    assert bare.offsets[0] == (0, 0)
    assert bare.offsets[-1][0] == bare.offsets[-1][1]
    assert pooling_weights([bare], [(0, len(text))])[0][[0, -1]].tolist() == [0, 0]
    messages = chat("Rain fell.")
    assert encode(tiny_tokenizer(), [messages])[0].rendered.startswith("<s>")
    assert taken(tiny_tokenizer(), messages, (0, 8))[0][0] >= 3


def chat(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[k % 2], "content": text} for k, text in enumerate(contents)]


@pytest.mark.parametrize(
    "contents",
    [
        ("Who counted the grain?", "The machine did."),
        ("Yes?", "Yes", "Yes or no? Yes"),  # repeated after the answer
        ("What is it?", "s", "Are you sure it is?"),  # a letter of the template's own words
        ("One", "First.", "Two", "Second. \n The apples."),
        ("Say it", "  \n padded with space \n "),
        ("assistant", "assistant"),
        ("Draw", "🦊 — naïve"),
        ("a", "b", "is qzcontentzq"),  # the placeholder itself
    ],
)
def test_assistant_takes_the_last_answer_wherever_its_words_stand_besides(contents):
    messages = chat(*contents)
    last = max(k for k, message in enumerate(messages) if message["role"] == "assistant")
    before = "<s>" + "".join(f"[{m['role']}] {m['content']}\n" for m in messages[:last])
    answer = messages[last]["content"]
    lead = len(answer) - len(answer.lstrip())
    start = len(before) + len("[assistant] ") + lead
    found = encode(tiny_tokenizer(), [messages])[0]
    assert found.answer == (start, start + len(answer.strip()))
    assert taken(tiny_tokenizer(), messages, "assistant") == taken(
        tiny_tokenizer(), messages, found.answer
    )


def test_assistant_equals_the_mean_computed_by_hand(llama):
    messages = chat("Who counted the grain?", "The machine, I think.", "Are you sure?")
    rendered = "[user] Who counted the grain?\n[assistant] The machine, I think.\n[user] Are you sure?\n[assistant]"
    tokens = llama.tokenizer(rendered, return_offsets_mapping=True).offset_mapping
    start = rendered.index("The machine")
    inside = [k for k, (a, b) in enumerate(tokens) if a < start + 21 and b > start]
    acts = probes.capture(llama, [messages, messages[:2]], pool="assistant")
    assert acts.pool == "assistant"
    wanted = by_hand(llama, rendered)[:, inside].mean(1)
    torch.testing.assert_close(acts.values, torch.stack([wanted, wanted]), **TOLERANCE)


def with_template(content: str) -> PreTrainedTokenizerFast:
    changed = copy.deepcopy(tiny_tokenizer())
    changed.chat_template = f"{{% for m in messages %}}<{{{{ m['role'] }}}}>{content}</s>{{% endfor %}}"  # fmt: skip
    return changed


@pytest.mark.parametrize(
    "content", ["{{ m['content'] | trim }}", "{{ m['content'].split() | join(' ') }}", "\n\n{{ m['content'] }}"],
)  # fmt: skip
def test_assistant_survives_templates_that_change_white_space(content):
    tokens = encode(with_template(content), [chat("Why?", " the truth,\n\n it said ")])[0]
    assert tokens.rendered[slice(*tokens.answer)].split() == ["the", "truth,", "it", "said"]


@pytest.mark.parametrize(
    ("tokenizer", "text", "message"),
    [
        (tiny_tokenizer(), "A plain string.", "text 1 has no assistant message"),
        (tiny_tokenizer(), chat("Only a question"), "text 1 has no assistant message"),
        (tiny_tokenizer(), chat("Why?", "  "), "text 1 does not hold its last assistant"),
        (with_template("{{ 1 // (m['content'] != 'qzcontentzq') }}{{ m['content'] }}"), chat("a", "b"), "text 1 does not hold"),
        (with_template("{{ m['role'] }}"), chat("user", "assistant"), "text 1 does not hold"),
        (with_template("{{ m['content'] | replace('so', 'no') if m['role'] == 'assistant' else m['content'] }}"), chat("so", "so"), "text 1 does not hold"),
        (with_template("{{ m['content'] if m['content'] | length < 9 }}"), chat("x", "<user>"), "text 1 does not hold"),
    ],
)  # fmt: skip
def test_chats_without_an_answer_to_take_are_named(tokenizer, text, message):
    fine = encode(tiny_tokenizer(), [chat("Why?", "Because.")])
    with pytest.raises(probes.DataError, match=message):
        pooling_weights(fine + encode(tokenizer, [text]), "assistant")


def test_a_template_that_fails_on_other_words_fails_no_other_pooling():
    fussy = with_template("{{ raise_exception('no') if 'qz' in m['content'] }}{{ m['content'] }}")
    assert encode(fussy, [chat("Why?", "Because.")])[0].answer == (0, 0)


@pytest.mark.parametrize(
    ("text", "pool", "wanted"),
    [
        ("Q: left A: early. Q: why A: rain", After("A:"), "rain"),
        ("Q: left A: early. Q: why A: rain", After("A: "), "rain"),  # " rain" holds that space
        ("Q: one A: two A: end", After("A:", occurrence="first"), "two A: end"),
    ],
)
def test_after_takes_the_tokens_that_begin_after_the_marker(text, pool, wanted):
    found = taken(tiny_tokenizer(), text, pool)
    assert "".join(words(text, found)).strip() == wanted


def test_after_leaves_out_a_token_that_the_marker_ends_inside_of():
    offsets = ((0, 7), (7, 10), (10, 15), (15, 15))  # the last one: an EOS of no characters
    tokens = Tokens((5, 6, 7, 2), offsets, "Answer: is here", 0)
    assert pooling_weights([tokens], After("Answer"))[0].tolist() == [0, 0.5, 0.5, 0]
    assert pooling_weights([tokens], After("Answer: "))[0].tolist() == [0, 0.5, 0.5, 0]
    assert pooling_weights([tokens], After("Answer: i"))[0].tolist() == [0, 0, 1, 0]


def test_after_reads_the_rendered_chat(llama):
    messages = chat("Why?", "Rain fell.", "And then?")
    rendered = "[user] Why?\n[assistant] Rain fell.\n[user] And then?\n[assistant]"
    tokens = llama.tokenizer(rendered, return_offsets_mapping=True).offset_mapping
    start = rendered.index("Rain") - 1
    inside = [k for k, (a, _) in enumerate(tokens) if a >= start and k > 0]
    acts = probes.capture(llama, [messages], pool=After("[assistant]", occurrence="first"))
    assert acts.pool == "after-first:[assistant]"
    torch.testing.assert_close(
        acts.values[0], by_hand(llama, rendered)[:, inside].mean(1), **TOLERANCE
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: After(""), "at least one character"),
        (lambda: After(3), "must be a string"),
        (lambda: After("x", occurrence="second"), '"last" or "first"'),
        (lambda: After("apples"), "text 1 does not hold the marker 'apples'"),
        (lambda: After("fell."), "no token follows the last marker 'fell.' in text 0"),
        (lambda: [(0, 3), (1, 9999)], r"\(1, 9999\) of text 1 reaches outside"),
        (lambda: [(0, 3), (-1, 3)], r"\(-1, 3\) of text 1 reaches outside"),
        (lambda: [(0, 3), (3, 1)], "text 1 covers no token"),
        (lambda: [(0, 3), (0, 1, 2)], "text 1 must be two whole numbers"),
        (lambda: [(0, 3), (0.5, 3)], "text 1 must be two whole numbers"),
        (lambda: [(0, 3), None], "text 1 must be two whole numbers"),
        (lambda: [(0, 3)] * 3, "3 ranges were given for 2 texts"),
        (lambda: None, "pool None is unknown"),
        (lambda: "answer", "pool 'answer' is unknown"),
    ],
)  # fmt: skip
def test_bad_pools_are_named_with_their_row(make, message):
    encoded = encode(tiny_tokenizer(), ["The apples. Rain fell.", "The ferry left early."])
    with pytest.raises(probes.DataError, match=message):
        pooling_weights(encoded, make())


@pytest.mark.parametrize("pool", ["assistant", After("r"), [(0, 1)]])
def test_a_slow_tokenizer_is_named_as_what_ranges_lack(pool):
    tokens = Tokens((1, 2), None, "The ferry", 0, (0, 3))
    with pytest.raises(probes.DataError, match="need a fast tokenizer"):
        pooling_weights([tokens], pool)


def test_every_pooling_has_a_name_of_its_own(llama):
    pools = ["last", "mean", "assistant", [(0, 1)], After("A:"), After("A:", occurrence="first")]
    names = [pool_name(pool) for pool in pools]
    assert names == ["last", "mean", "assistant", "spans", "after:A:", "after-first:A:"]
    assert probes.capture(llama, TEXTS, pool=After("e"), layers=0).pool == "after:e"
    assert probes.capture(llama, TEXTS, pool=[(0, 3)] * 5, layers=0).pool == "spans"


MODELS = {name: tiny_model(name) for name in ("llama", "gpt2")}


@settings(max_examples=12, deadline=None)
@given(
    contents=st.lists(TEXT.filter(str.strip), min_size=2, max_size=5),
    architecture=st.sampled_from(sorted(MODELS)),
    side=st.sampled_from(["left", "right"]),
    budget=st.sampled_from([64, 4096]),
    kind=st.sampled_from(["assistant", "after", "spans"]),
)
def test_single_equals_batched_on_both_padding_sides(contents, architecture, side, budget, kind):
    model = MODELS[architecture]
    chats = [chat("Why? " * (k % 3 + 1), text) for k, text in enumerate(contents)]
    answers = [tokens.answer for tokens in encode(model.tokenizer, chats)]
    pools = {"assistant": "assistant", "after": After("[assistant]"), "spans": answers}
    batched = probes.capture(
        model, chats, pool=pools[kind], padding_side=side, batch_tokens=budget
    ).values
    for row, messages in enumerate(chats):
        pool = [answers[row]] if kind == "spans" else pools[kind]
        alone = probes.capture(model, [messages], pool=pool).values[0]
        torch.testing.assert_close(batched[row], alone, **TOLERANCE)
