"""The figures of the documentation are drawn from the results as they are recorded."""

import json
import sys

import pytest


@pytest.fixture(scope='module')
def draw(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / 'projects/figures'))
        import draw

        yield draw
        for name in (*draw.names(), 'draw', 'style'):
            sys.modules.pop(name, None)


def test_no_figure_is_stale(draw):
    assert draw.stale() == []
    assert set(json.loads(draw.INDEX.read_text())) == set(draw.names())


def test_every_card_shows_its_figure_in_both_styles(draw, root):
    for card in (root / 'configs').glob('*/README.md'):
        plugin = card.parent.name
        if plugin in draw.names():
            for kind in ('light', 'dark'):
                assert f'../../docs/figures/{plugin}-{kind}.png' in card.read_text(), plugin


def test_a_changed_source_makes_a_figure_stale(draw, monkeypatch):
    monkeypatch.setattr(draw, 'digests', lambda name: {'other': name})
    assert draw.stale() == draw.names()


def test_a_figure_is_drawn_in_both_styles(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(draw, 'OUT', tmp_path)
    monkeypatch.setattr(draw, 'INDEX', tmp_path / 'index.json')
    draw.draw('training_step')
    light, dark = ((tmp_path / f'training_step-{k}.png').read_bytes() for k in ('light', 'dark'))
    assert light != dark and light[:4] == dark[:4] == b'\x89PNG'
    assert list(json.loads(draw.INDEX.read_text())) == ['training_step']
