//! Listing and clearing.

use std::collections::BTreeMap;

use squalus_proto::katran as proto;
use tonic::Code;

use super::target::{REAL_FLAGS, VIP_FLAGS, flag_words};
use super::{Failure, Session};

impl Session<'_, '_> {
    pub(super) async fn vips(&mut self) -> Result<Vec<proto::Vip>, Failure> {
        Ok(self
            .client
            .get_all_vips(proto::Empty {})
            .await?
            .into_inner()
            .vips)
    }

    /// `-l`.
    pub(super) async fn list(&mut self) -> Result<(), Failure> {
        let vips = self.vips().await?;
        self.log.line(&format!("vips len {}", vips.len()));
        for vip in vips {
            self.list_vip(vip).await?;
        }
        Ok(())
    }

    async fn list_vip(&mut self, vip: proto::Vip) -> Result<(), Failure> {
        let reals = self
            .client
            .get_reals_for_vip(vip.clone())
            .await?
            .into_inner()
            .reals;
        let proto::Vip {
            address,
            port,
            protocol,
        } = &vip;
        let protocol = if *protocol == 6 { "tcp" } else { "udp" };
        writeln!(
            self.out,
            "VIP: {address:>20} Port: {port:>6} Protocol: {protocol}"
        )?;
        let flags = self.client.get_vip_flags(vip).await?.into_inner().flags;
        writeln!(self.out, "Vip's flags: {}", flag_words(flags, &VIP_FLAGS))?;
        for real in reals {
            let arrow = format!(" ->{}", real.address);
            let flags = flag_words(u64::from(real.flags.cast_unsigned()), &REAL_FLAGS);
            writeln!(
                self.out,
                "{arrow:<20} weight: {} flags: {flags}",
                real.weight
            )?;
        }
        Ok(())
    }

    /// `-list_qm`.
    pub(super) async fn list_quic(&mut self) -> Result<(), Failure> {
        writeln!(self.out, "printing address to quic's connection id mapping")?;
        let ids = self
            .client
            .get_quic_reals_mapping(proto::Empty {})
            .await?
            .into_inner()
            .qreals;
        for proto::QuicReal { address, id } in ids {
            writeln!(self.out, "real: {address:>20} = connection id: {id:>6}")?;
        }
        Ok(())
    }

    /// `-list_hc`, in the order of the marks (katran's is random).
    pub(super) async fn list_health(&mut self) -> Result<(), Failure> {
        let checks = self
            .client
            .get_healthcheckers_dst(proto::Empty {})
            .await?
            .into_inner();
        for (somark, address) in checks.healthchecks.into_iter().collect::<BTreeMap<_, _>>() {
            writeln!(self.out, "somark: {somark:>10} addr: {address:>10}")?;
        }
        Ok(())
    }

    /// `-C`. Goes on after a failure and tells of it in the end.
    pub(super) async fn clear(&mut self) -> Result<(), Failure> {
        writeln!(self.out, "Deleting Vips")?;
        let mut complete = true;
        for vip in self.vips().await? {
            let address = vip.address.clone();
            let deleted = self.client.del_vip(vip).await;
            if !deleted.is_ok_and(|answer| answer.get_ref().success) {
                writeln!(self.out, "error while deleting vip: {address}")?;
                complete = false;
            }
        }
        writeln!(self.out, "Deleting Healthchecks")?;
        for somark in self.marks().await? {
            let deleted = self
                .client
                .del_healthchecker_dst(proto::Somark { somark })
                .await;
            if !deleted.is_ok_and(|answer| answer.get_ref().success) {
                writeln!(self.out, "error while deleting hc w/ somark: {somark}")?;
                complete = false;
            }
        }
        complete.then_some(()).ok_or(Failure::Clear)
    }

    /// Marks of all health checks; none, if the server does not forward health checks.
    async fn marks(&mut self) -> Result<Vec<u32>, Failure> {
        match self.client.get_healthcheckers_dst(proto::Empty {}).await {
            Ok(checks) => {
                let marks = checks.into_inner().healthchecks.into_keys();
                Ok(marks.map(i32::cast_unsigned).collect())
            }
            Err(status) if matches!(status.code(), Code::Unimplemented | Code::Cancelled) => {
                Ok(Vec::new())
            }
            Err(status) => Err(status.into()),
        }
    }
}
