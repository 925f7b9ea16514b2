//! Messages to the balancer's words and back.
//!
//! katran casts numbers that don't fit; here they are refused.

use squalus_abi::LbStats;
use squalus_core::{Action, CoreError, NewReal, RealOfVip, ServerId, VipKey, parse_address};
use squalus_proto::katran as proto;
use tonic::Status;

/// How katran answers every failure; the message says more than katran does.
pub fn failure(reason: impl ToString) -> Status {
    Status::cancelled(reason.to_string())
}

pub fn vip_key(vip: Option<&proto::Vip>) -> Result<VipKey, Status> {
    let vip = vip.ok_or_else(|| failure("the call names no VIP"))?;
    Ok(VipKey {
        address: parse_address(&vip.address).map_err(failure)?,
        port: number("port", vip.port)?,
        proto: number("protocol", vip.protocol)?,
    })
}

/// A number that must fit the balancer's type.
pub fn number<T: TryFrom<N>, N: ToString + Copy>(what: &str, value: N) -> Result<T, Status> {
    let refuse = |_| failure(format!("{what} {} is out of range", value.to_string()));
    T::try_from(value).map_err(refuse)
}

pub fn new_real(real: &proto::Real) -> Result<Result<NewReal, CoreError>, Status> {
    let (weight, flags) = (number("weight", real.weight)?, number("flags", real.flags)?);
    Ok(parse_address(&real.address).map(|address| NewReal {
        address,
        weight,
        flags,
    }))
}

pub fn server_id(real: &proto::QuicReal) -> Result<ServerId, CoreError> {
    // Ids of connection id version 3 have 32 bits, which the message holds as a signed number.
    let id = real.id.cast_unsigned();
    parse_address(&real.address).map(|address| ServerId { id, address })
}

pub fn action(action: i32) -> Result<Action, Status> {
    match proto::Action::try_from(action) {
        Ok(proto::Action::Add) => Ok(Action::Add),
        Ok(proto::Action::Del) => Ok(Action::Delete),
        Err(_) => Err(failure(format!(
            "unknown action {action}; 0 adds, 1 removes"
        ))),
    }
}

pub fn vip_message(vip: VipKey) -> proto::Vip {
    proto::Vip {
        address: vip.address.to_string(),
        port: vip.port.into(),
        protocol: vip.proto.into(),
    }
}

pub fn real_message(real: RealOfVip) -> proto::Real {
    proto::Real {
        address: real.address.to_string(),
        weight: real.weight.cast_signed(),
        flags: real.flags.into(),
    }
}

pub fn quic_message(id: ServerId) -> proto::QuicReal {
    proto::QuicReal {
        address: id.address.to_string(),
        id: id.id.cast_signed(),
    }
}

pub fn stats_message(stats: LbStats) -> proto::Stats {
    proto::Stats {
        v1: stats.v1,
        v2: stats.v2,
    }
}
