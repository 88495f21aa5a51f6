# Domain adaptation by iterations: what it logs, and which accuracies it reports.
_base_ = '../../_base_/cls_runtime.py'

val_cfg = dict()
test_cfg = dict()
# The accuracy reads the target's labels; of its values only that of the last iteration, or of one
# chosen by a score of LabelFreeSelection, is a result of unsupervised adaptation.
val_evaluator = [dict(type='Accuracy', topk=1), dict(type='mmext.LabelFreeSelection')]
test_evaluator = dict(type='Accuracy', topk=1)
default_hooks = dict(checkpoint=dict(by_epoch=False))
custom_hooks = [*_base_.custom_hooks, dict(type='mmext.AccuracyReportHook')]
log_processor = dict(by_epoch=False)
