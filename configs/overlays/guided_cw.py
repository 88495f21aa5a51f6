# Train any MMPretrain classifier on its own guided-CW adversarial images (few, short searches).
_host_ = 'classifier'
data_preprocessor = dict(
    batch_augments=dict(augments=dict(type='mmext.CWAttack', steps=10, search_steps=3))
)
custom_hooks = [dict(type='mmext.AttackModelHook')]
