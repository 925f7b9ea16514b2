//! AF_PACKET and tap ports.
