import re

import pytest
import torch

from modules.model.layers.causal_attention import CausalAttention, rotate


def test_rotary_positions_make_products_depend_on_the_distance_alone() -> None:
    query, key = torch.randn(2, 1, 1, 1, 6).expand(2, 1, 1, 11, 6)  # the same vector at every time
    products = rotate(query)[0, 0] @ rotate(key)[0, 0].T
    for distance in range(-7, 8):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(products[0, 1], products[0, 2])


def test_rotary_positions_turn_every_pair_by_its_own_angle_by_hand() -> None:
    heads = torch.randn(2, 3, 5, 4)
    turned = rotate(heads)
    for time in range(5):
        for pair, wave in enumerate((1.0, 100.0)):  # 10,000 to the power of 0 and of 2/4
            plane = torch.complex(heads[:, :, time, pair], heads[:, :, time, pair + 2])
            want = plane * torch.exp(1j * torch.tensor(time / wave))
            torch.testing.assert_close(turned[:, :, time, pair], want.real)
            torch.testing.assert_close(turned[:, :, time, pair + 2], want.imag)


def test_rotary_positions_are_precise_in_bf16_at_late_times() -> None:
    heads = torch.randn(1, 1, 1999, 2)
    late = rotate(heads.bfloat16())
    assert late.dtype == torch.bfloat16
    torch.testing.assert_close(late.float(), rotate(heads), atol=0.05, rtol=0.02)


def test_shared_keys_are_the_same_as_repeated_ones() -> None:
    shared, plain = CausalAttention(24, num_heads=6, num_kv_heads=2), CausalAttention(24, num_heads=6, num_kv_heads=6)
    weights = shared.state_dict()
    for name in ("key.weight", "value.weight"):
        weights[name] = weights[name].view(2, 4, 24).repeat_interleave(3, dim=0).reshape(24, 24)
    plain.load_state_dict(weights)
    states = torch.randn(2, 5, 24)
    torch.testing.assert_close(shared(states), plain(states))


def test_attention_is_the_papers_formula_by_hand() -> None:
    attention = CausalAttention(6, num_heads=1, num_kv_heads=1)
    states = torch.randn(2, 5, 6)
    query, key = (rotate(part(states)[:, None])[:, 0] for part in (attention.query, attention.key))
    scores = (query @ key.transpose(1, 2)) / 6**0.5
    shares = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf")).softmax(-1)
    torch.testing.assert_close(attention(states), attention.output(shares @ attention.value(states)))


def test_slices_of_the_heads_add_up_to_the_whole() -> None:
    whole = CausalAttention(24, num_heads=6, num_kv_heads=2)
    states = torch.randn(2, 5, 24)
    total = torch.zeros(2, 5, 24)
    for rank in range(2):
        part = CausalAttention(24, num_heads=6, num_kv_heads=2)
        for name in ("query", "key", "value"):
            getattr(part, name).weight.data = getattr(whole, name).weight.detach().chunk(2, dim=0)[rank]
        part.output.weight.data = whole.output.weight.detach().chunk(2, dim=1)[rank]
        total += part(states)
    torch.testing.assert_close(total, whole(states))


def test_attention_has_no_state_but_its_weights() -> None:
    names = CausalAttention(24, num_heads=6, num_kv_heads=2).state_dict().keys()
    assert names == {"query.weight", "key.weight", "value.weight", "output.weight"}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((26, 4, 2), "a multiple of 2 x num_heads=8, because rotary positions rotate pairs of features of a head, but got 26; "
                     "try 24 or 32"),
        ((12, 4, 2), "a multiple of 2 x num_heads=8, because rotary positions rotate pairs of features of a head, but got 12; "
                     "try 8 or 16"),
        ((4, 3, 3), "2 x num_heads=6, because rotary positions rotate pairs of features of a head, but got 4; try 6"),
        ((24, 4, 3), "CausalAttention wants num_kv_heads to divide num_heads=4, but got 3; try one of 1, 2, 4"),
        ((24, 2, 4), "CausalAttention wants num_kv_heads to divide num_heads=2, but got 4; try one of 1, 2"),
    ],
)  # fmt: skip
def test_attention_refuses_sizes_that_do_not_divide(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        CausalAttention(*sizes)
