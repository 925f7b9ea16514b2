//! What the program counts, summed over CPUs.

use std::net::IpAddr;

use squalus_abi::maps::name;
use squalus_abi::{GlobalCounter, Layout, LbStats, QuicStats, StableRoutingStats, TprStats};
use squalus_core::{CoreError, RealNum, VipKey};
use squalus_engine::EngineError;
use squalus_isa::Errno;

use super::Controller;
use crate::dataplane::Dataplane;
use crate::error::ControlError;

/// Counters. Sums wrap as the counters themselves do.
impl<D: Dataplane> Controller<D> {
    /// Packets and bytes of a VIP (`getStatsForVip`).
    ///
    /// # Errors
    /// If there is no such VIP, or the map cannot be read.
    pub fn vip_stats(&self, vip: &VipKey) -> Result<LbStats, ControlError> {
        self.sum(name::STATS, self.vip_index(vip)?)
    }

    /// New connections and session mismatches of a VIP's server ids (`getSidRoutingStatsForVip`).
    ///
    /// # Errors
    /// If there is no such VIP, or the map cannot be read.
    pub fn server_id_stats(&self, vip: &VipKey) -> Result<LbStats, ControlError> {
        self.sum(name::SERVER_ID_STATS, self.vip_index(vip)?)
    }

    /// Packets decapsulated for a VIP (`getDecapStatsForVip`).
    ///
    /// # Errors
    /// If there is no such VIP, or the map cannot be read.
    pub fn decap_stats(&self, vip: &VipKey) -> Result<LbStats, ControlError> {
        self.sum(name::DECAP_VIP_STATS, self.vip_index(vip)?)
    }

    /// Packets and bytes of the real with this index (`getRealStats`).
    ///
    /// # Errors
    /// If the map cannot be read, or has no such index.
    pub fn real_stats(&self, real: RealNum) -> Result<LbStats, ControlError> {
        self.sum(name::REALS_STATS, real.0)
    }

    /// A global counter (`getLruStats` and its siblings).
    ///
    /// The sum of [`GlobalCounter::NewConnRateCntr`] means nothing: it holds times.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn global(&self, counter: GlobalCounter) -> Result<LbStats, ControlError> {
        self.sum(
            name::STATS,
            self.balancer().config().max_vips + counter as u32,
        )
    }

    /// All global counters in order.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn globals(&self) -> Result<Vec<(GlobalCounter, LbStats)>, ControlError> {
        let counters = GlobalCounter::ALL.iter();
        counters
            .map(|&counter| Ok((counter, self.global(counter)?)))
            .collect()
    }

    /// Counters of QUIC VIPs (`getLbQuicPacketsStats`). The sample of an invalid server id is one CPU's.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn quic_stats(&self) -> Result<QuicStats, ControlError> {
        let per_cpu = self.per_cpu::<QuicStats>(name::QUIC_STATS_MAP, 0)?;
        let samples = per_cpu
            .iter()
            .map(|stats| stats.cid_invalid_server_id_sample);
        let sample = samples.max().unwrap_or(0);
        Ok(QuicStats {
            cid_invalid_server_id_sample: sample,
            ..total(&per_cpu)
        })
    }

    /// Counters of TCP server id routing (`getTcpServerIdRoutingStats`).
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn tpr_stats(&self) -> Result<TprStats, ControlError> {
        self.sum(name::TPR_STATS_MAP, 0)
    }

    /// Counters of UDP stable routing (`getUdpStableRoutingStats`).
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn stable_routing_stats(&self) -> Result<StableRoutingStats, ControlError> {
        self.sum(name::STABLE_RT_STATS, 0)
    }

    /// Session misses by real since [`Controller::log_lru_misses`] (`getVipLruMissStats`); nothing if
    /// that was not called for this VIP, or it has been deleted.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn lru_misses(&self, vip: &VipKey) -> Result<Vec<(IpAddr, u64)>, ControlError> {
        if self.balancer().logged_vip() != Some(*vip) {
            return Ok(Vec::new());
        }
        let reals = self.balancer().reals_of(vip).unwrap_or_default();
        let misses = reals.into_iter().map(|real| {
            let per_cpu = self.per_cpu::<u32>(name::LRU_MISS_STATS, real.num.0)?;
            Ok((real.address, per_cpu.into_iter().map(u64::from).sum()))
        });
        misses.collect()
    }

    /// Packets to all VIPs, of each CPU (`getPerCorePacketsStats`).
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn packets_per_cpu(&self) -> Result<Vec<u64>, ControlError> {
        let mut packets = vec![0u64; self.dataplane().maps().cpus()];
        for vip in self.balancer().vips() {
            let per_cpu = self.per_cpu::<LbStats>(name::STATS, self.vip_index(&vip)?)?;
            for (sum, stats) in packets.iter_mut().zip(per_cpu) {
                *sum = sum.wrapping_add(stats.v1);
            }
        }
        Ok(packets)
    }

    fn vip_index(&self, vip: &VipKey) -> Result<u32, CoreError> {
        self.balancer()
            .vip_num(vip)
            .map(|num| num.0)
            .ok_or(CoreError::NoVip(*vip))
    }

    /// The sum over CPUs of a value that is all 64-bit counters.
    fn sum<T: Layout>(&self, map: &'static str, index: u32) -> Result<T, ControlError> {
        Ok(total(&self.per_cpu(map, index)?))
    }

    /// The values that the CPUs have under an index.
    fn per_cpu<T: Layout>(&self, map: &'static str, index: u32) -> Result<Vec<T>, ControlError> {
        let found = self
            .dataplane()
            .maps()
            .lookup(map.into(), &index.to_ne_bytes());
        let bytes = found.map_err(ControlError::Read)?.ok_or_else(|| {
            let errno = Errno::ENOENT;
            ControlError::Read(EngineError::Map {
                map: map.to_owned(),
                operation: "lookup",
                errno,
            })
        })?;
        let stride = T::SIZE.next_multiple_of(8);
        Ok(bytes.chunks_exact(stride).map(T::read_from).collect())
    }
}

/// Adds structs of 64-bit counters field by field.
fn total<T: Layout>(per_cpu: &[T]) -> T {
    let mut sum = vec![0u8; T::SIZE];
    let mut one = vec![0u8; T::SIZE];
    for stats in per_cpu {
        stats.write_to(&mut one);
        for (sum, one) in sum.chunks_exact_mut(8).zip(one.chunks_exact(8)) {
            let added = u64::read_from(sum).wrapping_add(u64::read_from(one));
            added.write_to(sum);
        }
    }
    T::read_from(&sum)
}
