//! Maglev rings, bit-identical to katran's.
