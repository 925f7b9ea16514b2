//! The gRPC service of katran, wire compatible.
