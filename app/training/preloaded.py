"""What the forkserver loads, once for all its children: the workshop with torch, and the child's own entry."""

import app.training.child
from app.loading import leave_out, load_quietly

UNUSED_BY_CHILDREN = (
    "torch._meta_registrations",  # how operators work on tensors without memory, and all that they are defined by: a quarter of `import torch`
    "torch.utils.data",
    "torch.export",
    "torch.distributions",  # these three together another twentieth
)

with load_quietly(), leave_out(*UNUSED_BY_CHILDREN):
    import app.lstm.learning  # noqa: F401 - it is loaded, not used
