"""SAM, a method of two passes and no paper of ours, in the conformance kit."""

from plugin_settings import PLUGINS as OTHERS

from mmext.testing import PluginSettings, hosts

pytest_plugins = ['mmext.testing.pytest_plugin']

SAM = PluginSettings('sam', {'mmext.SAMHook': 'HOOKS'}, hosts.classifier, 'sam')
PLUGINS = [SAM]
WITH = ('terngrad', 'force_regularization', 'smoothout', 'mat', 'cst')
PAIRS = [(SAM, row) for row in OTHERS if row.name in WITH]


def test_promise(plugin_check):
    plugin_check()


def test_together(plugin_pair):
    plugin_pair()
