//! Layouts of the balancer's map keys and values, equal to katran's.
