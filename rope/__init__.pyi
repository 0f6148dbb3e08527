# Public names for type checkers; `X as X` marks a re-export. A test compares them with `__init__.py`.

from rope.axial import AxialRotaryEmbedding as AxialRotaryEmbedding
from rope.axial import MixedRotaryEmbedding as MixedRotaryEmbedding
from rope.compat import apply_learned_rotations as apply_learned_rotations
from rope.compat import apply_rotary_emb as apply_rotary_emb
from rope.compat import broadcat as broadcat
from rope.compat import rotate_half as rotate_half
from rope.embedding import RotaryEmbedding as RotaryEmbedding
from rope.layers import RoPE as RoPE
from rope.layers import RotaryAttention as RotaryAttention
from rope.layers import RotaryGroupQueryAttention as RotaryGroupQueryAttention
from rope.layouts import convert_layout as convert_layout
from rope.positions import grid_positions as grid_positions
from rope.positions import positions_from_mask as positions_from_mask
from rope.positions import positions_from_segments as positions_from_segments
from rope.private_tensorflow import plain_operations as plain_operations
from rope.rotation import compose as compose
from rope.rotation import rotate as rotate
from rope.scaling import scale_frequencies as scale_frequencies
