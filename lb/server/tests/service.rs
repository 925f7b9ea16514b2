//! The service over a real connection, with maps in memory behind it.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use squalus_abi::maps::name;
use squalus_abi::{Layout, LbStats};
use squalus_dataplane::memory::MemoryMaps;
use squalus_dataplane::{Controller, Settings};
use squalus_engine::MapAccess;
use squalus_isa::UpdateFlags;
use squalus_proto::katran::katran_service_client::KatranServiceClient;
use squalus_proto::katran::{
    Action, Empty, Healthcheck, Mac, ModifiedQuicReals, ModifiedRealsForVip, QuicReal, QuicReals,
    Real, RealForVip, RealMeta, Reals, Somark, Stats, Vip, VipMeta,
};
use squalus_server::{Listener, Options, ServerError, SharedController};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

type Client = KatranServiceClient<Channel>;

fn controller(maps: &Arc<MemoryMaps>) -> SharedController<Arc<MemoryMaps>> {
    let loaded = Controller::load(Arc::clone(maps), Settings::default());
    Arc::new(Mutex::new(loaded.expect("a balancer's maps")))
}

/// Runs a test's client against a server that ends with it.
fn with_server<F: Future<Output = ()>>(
    options: Options,
    test: impl FnOnce(Client, Arc<MemoryMaps>) -> F,
) {
    let maps = Arc::new(MemoryMaps::balancer(1));
    let controller = controller(&maps);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let listener = Listener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.address());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let client = async {
            let endpoint = Channel::from_shared(address).expect("a URI");
            let channel = endpoint.connect().await.expect("connects");
            test(Client::new(channel), maps).await;
            drop(stop);
        };
        let serving = listener.serve(controller, options, shutdown);
        let (served, ()) = join(serving, client).await;
        served.expect("serves to the end");
    });
}

async fn join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut left, mut right) = (None, None);
    std::future::poll_fn(|context| {
        use std::task::Poll;
        if left.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(context)
        {
            left = Some(value);
        }
        if right.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(context)
        {
            right = Some(value);
        }
        match (left.take(), right.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (left, right) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

/// What the server answered.
fn got<T>(answer: Result<Response<T>, Status>) -> T {
    answer.expect("an answer").into_inner()
}

fn vip(port: i32) -> Vip {
    Vip {
        address: "10.200.1.1".into(),
        port,
        protocol: 6,
    }
}

fn meta(port: i32, flags: i64, set_flag: bool) -> VipMeta {
    VipMeta {
        vip: Some(vip(port)),
        flags,
        set_flag,
    }
}

fn real(address: &str, weight: i32) -> Real {
    Real {
        address: address.into(),
        weight,
        flags: 0,
    }
}

fn batch(port: i32, action: i32, reals: Vec<Real>) -> ModifiedRealsForVip {
    ModifiedRealsForVip {
        action,
        real: Some(Reals { reals }),
        vip: Some(vip(port)),
    }
}

fn set(maps: &MemoryMaps, map: &str, index: u32, v1: u64, v2: u64) {
    let mut value = [0; 16];
    LbStats { v1, v2 }.write_to(&mut value);
    maps.update(map.into(), &index.to_ne_bytes(), &value, UpdateFlags::ANY)
        .expect("fits");
}

#[test]
fn vips_and_reals() {
    with_server(Options::default(), |mut client, _| async move {
        assert!(got(client.add_vip(meta(80, 1, false)).await).success);
        client.add_vip(meta(443, 0, false)).await.unwrap();
        client.modify_vip(meta(80, 2, true)).await.unwrap();
        let flags = client.get_vip_flags(vip(80)).await.unwrap();
        assert_eq!(flags.get_ref().flags, 3);
        let vips = got(client.get_all_vips(Empty {}).await).vips;
        assert_eq!(vips, [vip(80), vip(443)]);

        let one = RealForVip {
            real: Some(real("10.0.0.1", 3)),
            vip: Some(vip(80)),
        };
        client.add_real_for_vip(one.clone()).await.unwrap();
        let more = vec![real("fc00::1", 1), real("nonsense", 1), real("10.0.0.2", 0)];
        let answer = client
            .modify_reals_for_vip(batch(80, 0, more))
            .await
            .unwrap();
        assert!(
            answer.get_ref().success,
            "addresses that are none are left out"
        );
        let mut reals = got(client.get_reals_for_vip(vip(80)).await).reals;
        reals.sort_by(|a, b| a.address.cmp(&b.address));
        assert_eq!(
            reals,
            [real("10.0.0.1", 3), real("10.0.0.2", 0), real("fc00::1", 1)]
        );

        let local = RealMeta {
            address: "10.0.0.1".into(),
            flags: 2,
            set_flag: true,
        };
        client.modify_real(local).await.unwrap();
        let flags = client.get_real_flags(real("10.0.0.1", 0)).await.unwrap();
        assert_eq!(flags.get_ref().flags, 2);

        client.del_real_for_vip(one).await.unwrap();
        client.del_vip(vip(80)).await.unwrap();
        let vips = got(client.get_all_vips(Empty {}).await).vips;
        assert_eq!(vips, [vip(443)]);
    });
}

#[test]
fn failures_are_cancelled_as_katrans_and_say_why() {
    with_server(Options::default(), |mut client, _| async move {
        client.add_vip(meta(80, 0, false)).await.unwrap();
        let outcomes = [
            ("exists already", client.add_vip(meta(80, 0, false)).await),
            ("no IP address", {
                let vip = Vip {
                    address: "10.0.0".into(),
                    port: 1,
                    protocol: 6,
                };
                client
                    .add_vip(VipMeta {
                        vip: Some(vip),
                        ..VipMeta::default()
                    })
                    .await
            }),
            ("names no VIP", client.add_vip(VipMeta::default()).await),
            ("port 65536", client.add_vip(meta(65_536, 0, false)).await),
            ("port -1", client.del_vip(vip(-1)).await),
            ("flags -1", client.add_vip(meta(81, -1, false)).await),
            ("no VIP 10.200.1.1:81/tcp", client.del_vip(vip(81)).await),
            ("no VIP", client.modify_vip(meta(81, 1, true)).await),
            (
                "no VIP",
                client
                    .modify_reals_for_vip(batch(81, 0, vec![real("1.2.3.4", 1)]))
                    .await,
            ),
            (
                "unknown action 7",
                client.modify_reals_for_vip(batch(80, 7, vec![])).await,
            ),
            (
                "weight -1",
                client
                    .modify_reals_for_vip(batch(80, 0, vec![real("1.2.3.4", -1)]))
                    .await,
            ),
            (
                "no MAC address",
                client
                    .change_mac(Mac {
                        mac: "00:00".into(),
                    })
                    .await,
            ),
            ("no real 10.9.9.9", {
                let meta = RealMeta {
                    address: "10.9.9.9".into(),
                    flags: 2,
                    set_flag: true,
                };
                client.modify_real(meta).await
            }),
        ];
        for (reason, outcome) in outcomes {
            let status = outcome.expect_err(reason);
            assert_eq!(status.code(), Code::Cancelled, "{reason}");
            assert!(status.message().contains(reason), "{status}");
        }
        let status = client
            .get_reals_for_vip(vip(81))
            .await
            .expect_err("unknown");
        assert_eq!(status.code(), Code::Cancelled);
        let flags = client.get_vip_flags(vip(81)).await.unwrap();
        assert_eq!(flags.get_ref().flags, u64::MAX);
        let stats = client.get_stats_for_vip(vip(81)).await.unwrap();
        assert_eq!(stats.into_inner(), Stats { v1: 0, v2: 0 });
        let vips = got(client.get_all_vips(Empty {}).await).vips;
        assert_eq!(vips, [vip(80)]);
    });
}

#[test]
fn a_change_that_the_maps_refuse_is_cancelled() {
    with_server(Options::default(), |mut client, maps| async move {
        maps.refuse_after(name::VIP_MAP, Some(0));
        let status = client
            .add_vip(meta(80, 0, false))
            .await
            .expect_err("refused");
        assert_eq!(status.code(), Code::Cancelled);
        assert!(status.message().contains("nothing has changed"), "{status}");
        assert_eq!(got(client.get_all_vips(Empty {}).await).vips, []);
    });
}

#[test]
fn the_router() {
    with_server(Options::default(), |mut client, maps| async move {
        let mac = Mac {
            mac: "B8:3F:d2:2a:e5:11".into(),
        };
        client.change_mac(mac).await.unwrap();
        let mac = got(client.get_mac(Empty {}).await).mac;
        assert_eq!(mac, "b8:3f:d2:2a:e5:11");
        assert_eq!(
            maps.elements(name::CTL_ARRAY)[0].1[..6],
            [0xb8, 0x3f, 0xd2, 0x2a, 0xe5, 0x11]
        );
    });
}

#[test]
fn server_ids() {
    with_server(Options::default(), |mut client, _| async move {
        let id = |address: &str, id| QuicReal {
            address: address.into(),
            id,
        };
        let change = |action: Action, qreals| ModifiedQuicReals {
            action: action.into(),
            reals: Some(QuicReals { qreals }),
        };
        let items = vec![
            id("10.0.0.1", 9),
            id("nonsense", 1),
            id("fc00::1", 3),
            id("10.0.0.1", -1),
        ];
        client
            .modify_quic_reals_mapping(change(Action::Add, items))
            .await
            .unwrap();
        let ids = got(client.get_quic_reals_mapping(Empty {}).await).qreals;
        assert_eq!(
            ids,
            [id("fc00::1", 3), id("10.0.0.1", 9)],
            "ascending; -1 is out of range"
        );
        let one = vec![id("fc00::1", 3)];
        client
            .modify_quic_reals_mapping(change(Action::Del, one))
            .await
            .unwrap();
        let ids = got(client.get_quic_reals_mapping(Empty {}).await).qreals;
        assert_eq!(ids, [id("10.0.0.1", 9)]);
    });
}

#[test]
fn counters() {
    with_server(Options::default(), |mut client, maps| async move {
        client.add_vip(meta(80, 0, false)).await.unwrap();
        set(&maps, name::STATS, 0, 5, 500);
        for (counter, v1) in [(0, 10), (1, 20), (3, 30), (4, 40)] {
            set(&maps, name::STATS, 512 + counter, v1, v1 + 1);
        }
        let pair = |v1| Stats { v1, v2: v1 + 1 };
        let vip_stats = got(client.get_stats_for_vip(vip(80)).await);
        assert_eq!(vip_stats, Stats { v1: 5, v2: 500 });
        assert_eq!(got(client.get_lru_stats(Empty {}).await), pair(10));
        assert_eq!(got(client.get_lru_miss_stats(Empty {}).await), pair(20));
        assert_eq!(got(client.get_lru_fallback_stats(Empty {}).await), pair(30));
        assert_eq!(got(client.get_icmp_too_big_stats(Empty {}).await), pair(40));
    });
}

#[test]
fn health_checks_are_not_there_yet() {
    for (health_forwarding, code) in [(true, Code::Unimplemented), (false, Code::Cancelled)] {
        with_server(Options { health_forwarding }, |mut client, _| async move {
            let check = Healthcheck {
                somark: 1,
                address: "10.0.0.1".into(),
            };
            assert_eq!(
                client
                    .add_healthchecker_dst(check)
                    .await
                    .expect_err("no")
                    .code(),
                code
            );
            let mark = Somark { somark: 1 };
            assert_eq!(
                client
                    .del_healthchecker_dst(mark)
                    .await
                    .expect_err("no")
                    .code(),
                code
            );
            let all = client.get_healthcheckers_dst(Empty {}).await;
            assert_eq!(all.expect_err("no").code(), code);
        });
    }
}

#[test]
fn addresses_that_cannot_be_listened_on() {
    let taken = Listener::bind("127.0.0.1:0").expect("a free port");
    let again = Listener::bind(&taken.address().to_string());
    assert!(matches!(again, Err(ServerError::InUse(address)) if address == taken.address()));
    for text in ["", "127.0.0.1", "127.0.0.1:65536", ":::"] {
        let refused = Listener::bind(text);
        assert!(
            matches!(refused, Err(ServerError::Address { .. })),
            "{text}: {refused:?}"
        );
    }
    let foreign = Listener::bind("192.0.2.1:0");
    assert!(
        matches!(foreign, Err(ServerError::Bind { .. })),
        "{foreign:?}"
    );
}

#[test]
fn an_idle_client_does_not_keep_the_server() {
    let controller = controller(&Arc::new(MemoryMaps::balancer(1)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let listener = Listener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.address();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        // A connection that never says anything, not even HTTP.
        let client = async {
            let silent = tokio::net::TcpStream::connect(address)
                .await
                .expect("connects");
            drop(stop);
            silent
        };
        let serving = listener.serve(controller, Options::default(), shutdown);
        let both = tokio::time::timeout(Duration::from_secs(60), join(serving, client)).await;
        both.expect("ends by itself").0.expect("serves to the end");
    });
}
