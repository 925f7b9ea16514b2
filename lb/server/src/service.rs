//! The calls, one by one.

use std::sync::{Arc, Mutex};

use squalus_abi::{GlobalCounter, LbStats};
use squalus_core::{Action, CoreError, Mac, NewReal, ServerId, VipKey, parse_address};
use squalus_dataplane::{ControlError, Controller, Dataplane};
use squalus_proto::katran as proto;
use squalus_proto::katran::katran_service_server::KatranService as Service;
use tonic::{Request, Response, Status};

use crate::convert::{
    action, failure, new_real, number, quic_message, real_message, server_id, stats_message,
    vip_key, vip_message,
};

/// The controller, which gRPC calls, metrics and whoever else needs it take turns with.
pub type SharedController<D> = Arc<Mutex<Controller<D>>>;

/// What the service answers differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether health checks are to be forwarded (`-hc_forwarding`). Without, their calls fail as in
    /// katran; with, they are not implemented yet.
    pub health_forwarding: bool,
}

impl Default for Options {
    /// As katran's flags.
    fn default() -> Self {
        Options {
            health_forwarding: true,
        }
    }
}

/// katran's service over a controller.
#[derive(Debug)]
pub struct KatranService<D> {
    controller: SharedController<D>,
    options: Options,
}

impl<D: Dataplane + 'static> KatranService<D> {
    /// A service that controls `controller`.
    #[must_use]
    pub fn new(controller: SharedController<D>, options: Options) -> Self {
        KatranService {
            controller,
            options,
        }
    }

    /// Runs work on the controller, off the event loop: filling a ring takes milliseconds.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Controller<D>) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let controller = Arc::clone(&self.controller);
        let locked = move || {
            controller
                .lock()
                .ok()
                .map(|mut controller| work(&mut controller))
        };
        let outcome = tokio::task::spawn_blocking(locked).await.ok().flatten();
        outcome.ok_or_else(|| Status::internal("a call broke off half way; restart the balancer"))
    }

    /// A change that answers [`proto::Bool`].
    async fn change(
        &self,
        name: &'static str,
        change: impl FnOnce(&mut Controller<D>) -> Result<(), ControlError> + Send + 'static,
    ) -> Answer<proto::Bool> {
        match self.with(change).await? {
            Ok(()) => Ok(Response::new(proto::Bool { success: true })),
            Err(error) => {
                tracing::info!("{name}: {error}");
                Err(failure(error))
            }
        }
    }

    /// Two counters.
    async fn stats(
        &self,
        read: impl FnOnce(&Controller<D>) -> Result<LbStats, ControlError> + Send + 'static,
    ) -> Answer<proto::Stats> {
        let stats = self.with(|controller| read(controller)).await?;
        let unreadable = |error: ControlError| Status::internal(error.to_string());
        Ok(Response::new(stats_message(stats.map_err(unreadable)?)))
    }

    async fn global(&self, counter: GlobalCounter) -> Answer<proto::Stats> {
        self.stats(move |controller| controller.global(counter))
            .await
    }

    /// A batch of reals: as in katran, what cannot be is left out, and said in the log.
    async fn reals(
        &self,
        action: Action,
        reals: &[proto::Real],
        vip: VipKey,
    ) -> Answer<proto::Bool> {
        let parsed: Result<Vec<_>, Status> = reals.iter().map(new_real).collect();
        let reals: Vec<NewReal> = parsed?.into_iter().filter_map(usable).collect();
        self.change("modifyRealsForVip", move |controller| {
            let refused = controller.modify_reals(action, &reals, vip)?;
            refused.into_iter().for_each(left_out);
            Ok(())
        })
        .await
    }

    fn health(&self) -> Status {
        match self.options.health_forwarding {
            true => Status::unimplemented("forwarding of health checks is not there yet"),
            false => failure("forwarding of health checks is off (-hc_forwarding=false)"),
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn left_out(reason: CoreError) {
    tracing::warn!("left out: {reason}");
}

fn usable<T>(item: Result<T, CoreError>) -> Option<T> {
    item.map_err(left_out).ok()
}

/// What `getVipFlags` and `getRealFlags` answer for what there is not: katran's -1.
const NO_FLAGS: u64 = u64::MAX;

#[tonic::async_trait]
impl<D: Dataplane + 'static> Service for KatranService<D> {
    async fn change_mac(&self, request: Request<proto::Mac>) -> Answer<proto::Bool> {
        let mac: Mac = request.get_ref().mac.parse().map_err(failure)?;
        self.change("changeMac", move |controller| controller.change_mac(mac))
            .await
    }

    async fn get_mac(&self, _: Request<proto::Empty>) -> Answer<proto::Mac> {
        let mac = self.with(|controller| controller.balancer().mac()).await?;
        Ok(Response::new(proto::Mac {
            mac: mac.to_string(),
        }))
    }

    async fn add_vip(&self, request: Request<proto::VipMeta>) -> Answer<proto::Bool> {
        let vip = vip_key(request.get_ref().vip.as_ref())?;
        let flags = number("flags", request.get_ref().flags)?;
        self.change("addVip", move |controller| controller.add_vip(vip, flags))
            .await
    }

    async fn del_vip(&self, request: Request<proto::Vip>) -> Answer<proto::Bool> {
        let vip = vip_key(Some(request.get_ref()))?;
        self.change("delVip", move |controller| controller.del_vip(vip))
            .await
    }

    async fn get_all_vips(&self, _: Request<proto::Empty>) -> Answer<proto::Vips> {
        let vips = self
            .with(|c| c.balancer().vips().map(vip_message).collect())
            .await?;
        Ok(Response::new(proto::Vips { vips }))
    }

    async fn modify_vip(&self, request: Request<proto::VipMeta>) -> Answer<proto::Bool> {
        let meta = request.get_ref();
        let vip = vip_key(meta.vip.as_ref())?;
        let (flags, set) = (number("flags", meta.flags)?, meta.set_flag);
        self.change("modifyVip", move |controller| {
            controller.modify_vip(vip, flags, set)
        })
        .await
    }

    async fn modify_real(&self, request: Request<proto::RealMeta>) -> Answer<proto::Bool> {
        let meta = request.get_ref();
        let address = parse_address(&meta.address).map_err(failure)?;
        let (flags, set) = (number("flags", meta.flags)?, meta.set_flag);
        self.change("modifyReal", move |controller| {
            controller.modify_real(address, flags, set)
        })
        .await
    }

    async fn get_vip_flags(&self, request: Request<proto::Vip>) -> Answer<proto::Flags> {
        let flags = match vip_key(Some(request.get_ref())) {
            Ok(vip) => {
                self.with(move |controller| controller.balancer().vip_flags(&vip))
                    .await?
            }
            Err(_) => None,
        };
        Ok(Response::new(proto::Flags {
            flags: flags.map_or(NO_FLAGS, u64::from),
        }))
    }

    async fn get_real_flags(&self, request: Request<proto::Real>) -> Answer<proto::Flags> {
        let flags = match parse_address(&request.get_ref().address) {
            Ok(real) => {
                self.with(move |controller| controller.balancer().real_flags(real))
                    .await?
            }
            Err(_) => None,
        };
        Ok(Response::new(proto::Flags {
            flags: flags.map_or(NO_FLAGS, u64::from),
        }))
    }

    async fn add_real_for_vip(&self, request: Request<proto::RealForVip>) -> Answer<proto::Bool> {
        let request = request.get_ref();
        let vip = vip_key(request.vip.as_ref())?;
        self.reals(Action::Add, request.real.as_slice(), vip).await
    }

    async fn del_real_for_vip(&self, request: Request<proto::RealForVip>) -> Answer<proto::Bool> {
        let request = request.get_ref();
        let vip = vip_key(request.vip.as_ref())?;
        self.reals(Action::Delete, request.real.as_slice(), vip)
            .await
    }

    async fn modify_reals_for_vip(
        &self,
        request: Request<proto::ModifiedRealsForVip>,
    ) -> Answer<proto::Bool> {
        let request = request.get_ref();
        let vip = vip_key(request.vip.as_ref())?;
        let reals = request.real.as_ref().map_or(&[][..], |reals| &reals.reals);
        self.reals(action(request.action)?, reals, vip).await
    }

    async fn get_reals_for_vip(&self, request: Request<proto::Vip>) -> Answer<proto::Reals> {
        let vip = vip_key(Some(request.get_ref()))?;
        let reals = self
            .with(move |controller| controller.balancer().reals_of(&vip))
            .await?;
        let reals = reals
            .map_err(failure)?
            .into_iter()
            .map(real_message)
            .collect();
        Ok(Response::new(proto::Reals { reals }))
    }

    async fn modify_quic_reals_mapping(
        &self,
        request: Request<proto::ModifiedQuicReals>,
    ) -> Answer<proto::Bool> {
        let request = request.into_inner();
        let action = action(request.action)?;
        let items = request.reals.unwrap_or_default().qreals;
        let ids: Vec<ServerId> = items.iter().map(server_id).filter_map(usable).collect();
        self.change("modifyQuicRealsMapping", move |controller| {
            controller
                .modify_server_ids(action, &ids)?
                .into_iter()
                .for_each(left_out);
            Ok(())
        })
        .await
    }

    async fn get_quic_reals_mapping(&self, _: Request<proto::Empty>) -> Answer<proto::QuicReals> {
        let qreals = self
            .with(|c| c.balancer().server_ids().map(quic_message).collect())
            .await?;
        Ok(Response::new(proto::QuicReals { qreals }))
    }

    async fn get_stats_for_vip(&self, request: Request<proto::Vip>) -> Answer<proto::Stats> {
        let Ok(vip) = vip_key(Some(request.get_ref())) else {
            return Ok(Response::new(proto::Stats::default()));
        };
        self.stats(move |controller| match controller.vip_stats(&vip) {
            Err(ControlError::Core(_)) => Ok(LbStats::default()),
            outcome => outcome,
        })
        .await
    }

    async fn get_lru_stats(&self, _: Request<proto::Empty>) -> Answer<proto::Stats> {
        self.global(GlobalCounter::LruCntrs).await
    }

    async fn get_lru_miss_stats(&self, _: Request<proto::Empty>) -> Answer<proto::Stats> {
        self.global(GlobalCounter::LruMissCntr).await
    }

    async fn get_lru_fallback_stats(&self, _: Request<proto::Empty>) -> Answer<proto::Stats> {
        self.global(GlobalCounter::FallbackLruCntr).await
    }

    async fn get_icmp_too_big_stats(&self, _: Request<proto::Empty>) -> Answer<proto::Stats> {
        self.global(GlobalCounter::IcmpTooBigCntrs).await
    }

    async fn add_healthchecker_dst(&self, _: Request<proto::Healthcheck>) -> Answer<proto::Bool> {
        Err(self.health())
    }

    async fn del_healthchecker_dst(&self, _: Request<proto::Somark>) -> Answer<proto::Bool> {
        Err(self.health())
    }

    async fn get_healthcheckers_dst(&self, _: Request<proto::Empty>) -> Answer<proto::HcMap> {
        Err(self.health())
    }
}
