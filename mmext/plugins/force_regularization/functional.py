"""Mathematics of force regularization and of low-rank filters (arXiv 1703.09746), plain PyTorch.

A layer's weight ``W`` has one filter per row of its ``(N, C k k)`` matrix. ``w_i = W_i / ||W_i||``.
"""

import math

import torch
from torch import Tensor

FORCE_KINDS = ('l1', 'l2')
METHODS = ('pca', 'svd', 'kmeans', 'spatial')
#: Filters shorter, and pairs of unit filters closer than this feel no force (author's code).
ZERO_THRESHOLD = 1e-4


def force(weight: Tensor, kind: str = 'l1', groups: int = 1) -> Tensor:
    """Return the force gradient: the pull of all other filters, tangential, scaled by the length.

    ``dW_i = ||W_i|| sum_j (f_ji - (f_ji . w_i) w_i)`` with ``f_ji = w_j - w_i`` for ``'l2'`` and
    ``f_ji = (w_j - w_i) / ||w_j - w_i||`` for ``'l1'``. The update ``W + lr strength dW`` draws
    filters together and keeps their norms to first order. With R the sum of all (L1) or half the
    sum of all squared (L2) distances, ``dW_i = -(||W_i||^2 / 2) dR/dW_i``: a penalty R trained by
    autograd is another method.

    Closed forms: for L2 the filters act through their sum, O(N D); L1 costs two GEMMs, O(N^2 D).
    L1's distances are computed in float64, since the filters it has drawn together differ by less
    than the resolution of ``1 - w_i . w_j`` in float32.

    Args:
        weight: Filters, shape (N, C, *); a matrix (N, D) for a linear layer.
        kind: ``'l1'`` or ``'l2'``. L2 leaves out no close pairs: each would add less than 1e-4.
        groups: Groups of a convolution; filters of different groups see different inputs and do
            not pull each other. Divides N. Ours.

    Returns:
        Shape, dtype and device of ``weight``; zero for filters shorter than 1e-4.

    Raises:
        ValueError: Unknown ``kind``, fewer than two dimensions, or ``groups`` does not divide N.
    """
    if kind not in FORCE_KINDS:
        raise ValueError(f'force kind={kind!r} is unknown; choose one of {list(FORCE_KINDS)}')
    filters = as_matrices(weight, groups)
    filters = filters.float() if filters.dtype in (torch.half, torch.bfloat16) else filters
    lengths = filters.norm(dim=-1, keepdim=True)
    present = lengths > ZERO_THRESHOLD
    units = torch.where(present, filters / lengths, 0)
    # The part -w_i of every f_ji is radial.
    pull = units.sum(-2, keepdim=True) if kind == 'l2' else _inverse_distances(units) @ units
    tangential = pull - (pull * units).sum(-1, keepdim=True) * units
    result = torch.where(present, lengths * tangential, 0)
    return result.reshape(weight.shape).to(weight.dtype)


def _inverse_distances(units: Tensor) -> Tensor:
    """``1 / ||w_i - w_j||``, zero for close pairs; shape (..., N, N)."""
    exact = units.double()
    # Not 2 - 2 <w_i, w_j>: the squares of rounded unit vectors are not exactly 1.
    squares = exact.square().sum(-1)
    distances = squares[..., None] + squares[..., None, :] - 2 * exact @ exact.mT
    close = distances <= ZERO_THRESHOLD**2
    return torch.where(close, 0, distances.clamp_min(ZERO_THRESHOLD**2).rsqrt()).to(units.dtype)


def as_matrices(weight: Tensor, groups: int = 1) -> Tensor:
    """Filters as rows, one matrix per group: shape (groups, N / groups, C k k).

    Raises:
        ValueError: Fewer than two dimensions, or ``groups`` does not divide N.
    """
    if weight.dim() < 2:
        raise ValueError(f'a weight (N, C, *) has at least 2 dimensions, got {tuple(weight.shape)}')
    if weight.shape[0] % groups:
        raise ValueError(f'groups={groups} must divide the {weight.shape[0]} filters')
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def spectrum(matrix: Tensor) -> Tensor:
    """Squared singular values in descending order, float64: shape (..., min(n, m)).

    The paper's PCA is uncentred, so these are its eigenvalues up to a factor. Computed from the
    smaller Gram matrix: exact to 1e-16 of the largest.

    Args:
        matrix: Shape (..., n, m).
    """
    return torch.linalg.eigvalsh(_small_gram(matrix)).flip(-1).clamp_min(0)


def rank_at(energies: Tensor, energy: float) -> int:
    """Least rank that keeps the share ``energy`` of the squared Frobenius norm.

    Args:
        energies: A :func:`spectrum`, shape (..., K); of several matrices the largest rank counts.
        energy: ``1 - eps``, in (0, 1]; the paper's eps is 5 %.

    Returns:
        In [1, K]; 0 for a zero matrix.

    Raises:
        ValueError: ``energy`` is out of its range.
    """
    if not 0 < energy <= 1:
        raise ValueError(f'energy={energy} must be in (0, 1]: the share of the energy that is kept')
    kept = energies.cumsum(-1)
    total = kept[..., -1:]
    # Summation rounds: without the slack energy=1 would count noise as rank.
    short = kept < energy * total * (1 - 1e-13)
    ranks = torch.where(total[..., 0] > 0, short.sum(-1) + 1, 0)
    return int(ranks.max())


def break_even_rank(rows: int, columns: int) -> float:
    """Rank at which two factors have as many weights as their product: ``n m / (n + m)``.

    For a convolution ``rows`` is N and ``columns`` C k k; for ``'spatial'`` they are C k and N k.
    """
    return rows * columns / (rows + columns)


def speedup(filters: int, channels: int, kernel: int, rank: int) -> float:
    """Fewer MACs of the pair than of the layer: ``N C k^2 / (K (C k^2 + N))``."""
    columns = channels * kernel**2
    return filters * columns / (rank * (columns + filters))


def unfold(weight: Tensor, groups: int = 1, spatial: bool = False) -> Tensor:
    """Matrices that are factorised.

    Args:
        weight: Shape (N, C, kh, kw), C channels per group.
        groups: Groups of the convolution.
        spatial: Rows are channels and the kernel's height, columns filters and its width (Tai et
            al., ICLR 2016), instead of filters by channels and kernel.

    Returns:
        Shape (groups, N / groups, C kh kw), or (groups, C kh, N / groups kw).
    """
    matrices = as_matrices(weight, groups)
    if not spatial:
        return matrices
    count, channels, height, width = weight.shape
    split = matrices.reshape(groups, count // groups, channels, height, width)
    return split.permute(0, 2, 3, 1, 4).reshape(groups, channels * height, -1)


def fold(left: Tensor, right: Tensor, shape: tuple[int, ...], spatial: bool = False):
    """Weights of the two convolutions of :func:`unfold`-ed factors.

    Args:
        left: Shape (groups, rows, K).
        right: Shape (groups, K, columns).
        shape: (N, C, kh, kw) of the replaced weight.
        spatial: As in :func:`unfold`.

    Returns:
        Weights of the first convolution, (groups K, C, kh, kw) or (groups K, C, kh, 1), and of the
        second, (N, K, 1, 1) or (N, K, 1, kw).
    """
    (groups, _, rank), (count, channels, height, width) = left.shape, shape
    if not spatial:
        basis = right.reshape(groups * rank, channels, height, width)
        return basis, left.reshape(count, rank, 1, 1)
    basis = left.mT.reshape(groups * rank, channels, height, 1)
    split = right.reshape(groups, rank, count // groups, width)
    return basis, split.transpose(1, 2).reshape(count, rank, 1, width)


def factorize(matrix: Tensor, rank: int, method: str = 'pca') -> tuple[Tensor, Tensor]:
    """Factors ``left @ right`` of rank ``rank`` that are close to ``matrix``.

    Args:
        matrix: Shape (n, m).
        rank: In [1, min(n, m)].
        method: ``'pca'``: orthonormal columns of ``left``, all lengths in ``right`` (author's
            code); ``'svd'`` and ``'spatial'``: lengths shared by both factors (his ``svd``; here
            ``energy`` means the same for every method, there the square root); ``'kmeans'``:
            ``right`` holds centroids of the rows and ``left`` says whose is whose.

    Returns:
        ``left`` (n, K) and ``right`` (K, m), with the dtype of ``matrix``. The best approximation
        in the Frobenius norm, except for ``'kmeans'``.

    Raises:
        ValueError: Unknown ``method`` or ``rank`` out of its range.
    """
    rows, columns = matrix.shape
    if method not in METHODS:
        raise ValueError(f'method={method!r} is unknown; choose one of {list(METHODS)}')
    if not 1 <= rank <= (rows if method == 'kmeans' else min(rows, columns)):
        raise ValueError(f'rank={rank} is out of range for a {rows} x {columns} matrix')
    if method == 'kmeans':
        return _kmeans(matrix, rank)
    exact = matrix.double()
    vectors = torch.linalg.eigh(_small_gram(matrix))[1].flip(-1)[:, :rank]
    if rows <= columns:
        left, right = vectors, vectors.mT @ exact
        lengths = right.norm(dim=1)
    else:
        left, right = exact @ vectors, vectors.mT
        lengths = left.norm(dim=0)
    lengths = torch.where(lengths > 0, lengths, 1)
    share = lengths if method == 'pca' else lengths.sqrt()
    if rows > columns:
        left, right = left / share, right * share[:, None]
    elif method != 'pca':
        left, right = left * share, right / share[:, None]
    return left.to(matrix.dtype), right.to(matrix.dtype)


def _kmeans(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    from sklearn.cluster import KMeans

    fit = KMeans(rank, n_init=4, random_state=0).fit(matrix.detach().double().cpu().numpy())
    labels = torch.as_tensor(fit.labels_, device=matrix.device).long()
    left = torch.nn.functional.one_hot(labels, rank).to(matrix.dtype)
    return left, torch.as_tensor(fit.cluster_centers_).to(matrix)


def truncate(weight: Tensor, energy: float, groups: int = 1) -> Tensor:
    """Nearest weight whose filter matrix has the rank of :func:`rank_at`: TRP's projection.

    Args:
        weight: Shape (N, C, *).
        energy: In (0, 1].
        groups: Groups of the convolution; each is truncated to the same rank.
    """
    matrices = as_matrices(weight, groups)
    basis = _principal(matrices, energy)[0]
    return _project(basis, matrices).reshape(weight.shape).to(weight.dtype)


def nuclear_subgradient(weight: Tensor, energy: float = 1.0, groups: int = 1) -> Tensor:
    """Subgradient ``U V^T`` of the nuclear norm of the filter matrix (TRP, arXiv 2004.14566).

    Args:
        weight: Shape (N, C, *).
        energy: Only the singular vectors that hold this share of the energy, in (0, 1].
        groups: Groups of the convolution.

    Returns:
        Shape and dtype of ``weight``.
    """
    matrices = as_matrices(weight, groups)
    basis, lengths, of_rows = _principal(matrices, energy)
    inverse = torch.where(lengths > 0, 1 / lengths, 0)
    exact = matrices.double()
    scaled = basis * inverse[..., None, :]
    result = scaled @ (basis.mT @ exact) if of_rows else (exact @ scaled) @ basis.mT
    return result.reshape(weight.shape).to(weight.dtype)


def _principal(matrices: Tensor, energy: float) -> tuple[Tensor, Tensor, bool]:
    """Leading singular vectors of the smaller side, singular values, whether the side is rows."""
    values, vectors = torch.linalg.eigh(_small_gram(matrices))
    values = values.flip(-1).clamp_min(0)
    rank = rank_at(values, energy)
    # Below 1e-14 of the largest an eigenvalue of a Gram matrix is rounding noise.
    values = torch.where(values > 1e-14 * values[..., :1], values, 0)[..., :rank]
    of_rows = matrices.shape[-2] <= matrices.shape[-1]
    return vectors.flip(-1)[..., :rank], values.sqrt(), of_rows


def _project(basis: Tensor, matrices: Tensor) -> Tensor:
    exact = matrices.double()
    if matrices.shape[-2] <= matrices.shape[-1]:
        return basis @ (basis.mT @ exact)
    return (exact @ basis) @ basis.mT


def _small_gram(matrices: Tensor) -> Tensor:
    exact = matrices.double()
    return exact @ exact.mT if exact.shape[-2] <= exact.shape[-1] else exact.mT @ exact


def shrink_groups(basis: Tensor, mix: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Proximal step of the group lasso on the components of a low-rank pair (ours).

    Component k is the k-th filter of the first convolution with the k-th input of the second, one
    vector g_k, scaled by ``max(0, 1 - threshold / ||g_k||)``; a component that reaches zero can be
    cut out.

    Args:
        basis: First weight, shape (G K, C, kh, kw).
        mix: Second weight, shape (N, K, 1, kw) with G groups.
        threshold: Learning rate times strength, >= 0.

    Returns:
        The two shrunk weights.
    """
    groups = basis.shape[0] // mix.shape[1]
    rows, columns = component_views(basis, mix)
    lengths = (rows.square().sum(-1) + columns.square().sum((1, 3))).sqrt()
    scale = (1 - threshold / lengths.clamp_min(1e-12)).clamp_min(0)
    shrunk = (rows * scale[..., None]).reshape(basis.shape)
    return shrunk, (columns * scale.reshape(groups, 1, -1, 1)).reshape(mix.shape)


def component_views(basis: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
    """The pair's weights by component: (G, K, D) and (G, N / G, K, kw)."""
    rank = mix.shape[1]
    groups = basis.shape[0] // rank
    columns = mix.reshape(groups, mix.shape[0] // groups, rank, math.prod(mix.shape[2:]))
    return basis.reshape(groups, rank, -1), columns
