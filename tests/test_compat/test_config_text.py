from mmengine.config import Config
from yapf.yapflib import yapf_api

from mmext.compat import config_text


def test_a_config_is_formatted_again_only_when_it_has_changed(monkeypatch):
    calls = []
    original = yapf_api.FormatCode
    monkeypatch.setattr(
        yapf_api, 'FormatCode', lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    )
    config_text.install()
    cfg = Config(dict(a=1, b=dict(type='X', sizes=[1, 2])))
    first = cfg.pretty_text
    assert first == cfg.pretty_text == Config(cfg.to_dict()).pretty_text and len(calls) == 1
    cfg.b.sizes.append(3)
    assert '3' in cfg.pretty_text and len(calls) == 2
    assert Config.fromstring(cfg.pretty_text, '.py').to_dict() == cfg.to_dict()
    cfg.pop('a')
    assert 'a = 1' not in cfg.pretty_text
