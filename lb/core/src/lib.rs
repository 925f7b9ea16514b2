//! The balancer's state and the map operations it means.
