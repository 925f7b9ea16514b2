//! The gRPC interface of katran, wire compatible, generated from `proto/katran.proto` at build time.
//!
//! [`katran`] has the messages; [`katran::katran_service_server`] the trait to implement, and
//! [`katran::katran_service_client`] the client, both over any transport.
#![forbid(unsafe_code)]

/// Package `lb.katran`. The `.proto` file documents every call and field.
#[allow(
    missing_docs,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto file is the documentation"
)]
pub mod katran {
    tonic::include_proto!("lb.katran");
}
