//! The kernel as judge: `bpf_fib_lookup` and `bpf_check_mtu` on the same tables, with random questions, in the
//! kernel and in the userspace engine. What is returned and all 64 bytes of the question's struct must be equal.
//!
//! Needs root; says so and passes where it has none.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use squalus_engine::{Engine, TestRun};
use squalus_fib::{Reader, Snapshot, Watcher};
use squalus_isa::{HelperId, Insn, MapDef, MapType, MemSize, UpdateFlags};
use squalus_kernel::KernelEngine;
use squalus_runtime::asm::{Asm, R};
use squalus_runtime::{FibCell, Rng};
use squalus_testkit::Namespace;
use squalus_vm::{EngineKind, Vm, VmBuilder};

/// Interfaces 2 to 5 of the namespace are a to d, each the end of a veth; d has no carrier and its routes don't
/// count then, c does not forward.
const LINKS: &str = "
link set dev lo up
link add name a index 2 type veth peer name pa index 12
link add name b index 3 type veth peer name pb index 13
link add name c index 4 type veth peer name pc index 14
link add name d index 5 type veth peer name pd index 15
link set dev a address 02:00:00:00:00:0a up
link set dev b address 02:00:00:00:00:0b mtu 1400 up
link set dev c address 02:00:00:00:00:0c up
link set dev d address 02:00:00:00:00:0d up
link set dev pa up
link set dev pb mtu 1400 up
link set dev pc up
";

const SETUP: &str = "
address add 10.1.0.1/24 dev a
address add 10.1.0.5/24 dev a
address add 10.1.9.1/28 dev a
address add 10.2.0.1/24 dev b
address add 10.3.0.1/24 dev c
address add 10.4.0.1/24 dev d
-6 address add fd01::1/64 dev a nodad
-6 address add fd02::1/64 dev b nodad
-6 address add fd02::2/64 dev b nodad
-6 address add fd03::1/64 dev c nodad
route add default via 10.1.0.254 metric 100
route add default via 10.2.0.254 metric 50
route add 172.16.0.0/12 via 10.1.0.2
route add 172.16.1.0/24 via 10.2.0.2 metric 7
route add 172.16.1.0/24 via 10.1.0.3 metric 9
route add 172.16.2.0/24 via 10.1.0.2 src 10.1.0.5
route add 172.16.3.0/24 tos 0x10 via 10.2.0.2
route add 172.16.3.0/24 via 10.1.0.2
route add blackhole 172.16.4.0/24
route add unreachable 172.16.5.0/24
route add prohibit 172.16.6.0/24
route add throw 172.16.7.0/24
route add 172.16.8.0/24 via 10.1.0.2 mtu lock 1300
route add 172.16.9.0/24 via 10.1.0.2 mtu 1300
route add 172.16.10.0/24 via inet6 fd01::2 dev a
route add 172.16.11.0/24 via 10.4.0.2
route add 172.16.12.0/24 dev b scope link
route add 172.16.0.0/12 via 10.2.0.3 table 100
route add default via 10.1.0.2 table 100
route add 172.16.1.0/25 via 10.2.0.2 table 101
route add local 192.168.0.0/16 dev lo table local
route add 192.168.7.0/24 via 10.1.0.2
-6 route add default via fd01::fe metric 100
-6 route add fd10::/16 via fd01::2
-6 route add fd10:1::/32 via fd02::9 metric 7
-6 route add fd10:1::/32 via fd01::3 metric 9
-6 route add fd10:2::/32 via fd01::2 src fd01::1
-6 route add blackhole fd10:4::/32
-6 route add unreachable fd10:5::/32
-6 route add prohibit fd10:6::/32
-6 route add throw fd10:7::/32
-6 route add fd10:8::/32 via fd01::2 mtu lock 1290
-6 route add fd10:9::/32 via fd01::2 mtu 1290
-6 route add fd10:12::/32 dev b
-6 route add fd10::/16 via fd02::3 table 100
-6 route add fd10:1::/48 from fd01::/64 via fd02::9
neighbour add 10.1.0.2 lladdr 02:00:00:00:01:02 dev a nud permanent
neighbour add 10.1.0.3 lladdr 02:00:00:00:01:03 dev a nud stale
neighbour add 10.1.0.254 lladdr 02:00:00:00:01:fe dev a nud reachable
neighbour add 10.2.0.2 lladdr 02:00:00:00:02:02 dev b nud permanent
neighbour add 172.16.12.3 lladdr 02:00:00:00:02:0c dev b nud noarp
neighbour add 10.2.0.254 dev b nud incomplete
-6 neighbour add fd01::2 lladdr 02:00:00:00:06:02 dev a nud permanent
-6 neighbour add fd01::fe lladdr 02:00:00:00:06:fe dev a nud permanent
-6 neighbour add fd02::9 lladdr 02:00:00:00:06:09 dev b nud permanent
";

const RULES: &str = "
rule add priority 10 fwmark 7 lookup 100
rule add priority 11 fwmark 0x10/0x30 lookup 101
rule add priority 12 from 10.2.0.0/16 lookup 100
rule add priority 13 to 172.16.2.0/24 lookup 100
rule add priority 14 iif b to 172.16.1.0/24 lookup 101
rule add priority 15 tos 0x08 prohibit
rule add priority 16 to 172.16.6.0/23 goto 20
rule add priority 17 to 172.16.7.0/24 unreachable
rule add priority 18 not from 10.0.0.0/8 to 172.16.5.0/24 blackhole
rule add priority 19 ipproto udp dport 53-99 lookup 100
rule add priority 20 fwmark 9 lookup main suppress_prefixlength 0
-6 rule add priority 10 fwmark 7 lookup 100
-6 rule add priority 11 from fd02::/64 lookup 100
-6 rule add priority 12 to fd10:2::/32 prohibit
-6 rule add priority 13 fwmark 9 lookup main suppress_prefixlength 0
-6 rule add priority 14 oif b lookup 100
";

/// Runs commands of iproute2; those for IPv6 begin with `-6` and come first, because
/// IPv4 routes may lead to IPv6 routers.
fn ip(batch: &str) {
    let lines = batch.lines().filter(|line| !line.is_empty());
    let (v6, v4): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with("-6 "));
    let v6: Vec<&str> = v6.into_iter().map(|line| &line[3..]).collect();
    for (version, lines) in [("-6", v6), ("-4", v4)] {
        let mut ip = Command::new("ip");
        let ip = ip.args([version, "-batch", "-"]).stdin(Stdio::piped());
        let mut ip = ip.spawn().unwrap();
        let input = lines.join("\n") + "\n";
        ip.stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        assert!(ip.wait().unwrap().success());
    }
}

fn sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

/// A namespace with interfaces and routes, or a loud excuse.
fn namespace(label: &str) -> Option<Namespace> {
    let namespace = match Namespace::new(label) {
        Ok(namespace) => namespace,
        Err(error) => {
            eprintln!("SKIPPED: no comparison with the kernel's routes: {error}");
            return None;
        }
    };
    namespace
        .run(|| {
            ip(LINKS);
            ip(SETUP);
            sysctl("ipv4/conf/all/forwarding", "1");
            sysctl("ipv6/conf/all/forwarding", "1");
            sysctl("ipv4/conf/c/forwarding", "0");
            sysctl("ipv6/conf/c/forwarding", "0");
            sysctl("ipv4/conf/d/ignore_routes_with_linkdown", "1");
        })
        .unwrap();
    Some(namespace)
}

/// Where in the shared map's value the parts of a question are.
const FLAGS: u32 = 64;
const RESULT: u32 = 72;
const LEN: usize = 80;

fn map() -> MapDef {
    MapDef::new("question", MapType::Array, (4, LEN as u32), 1)
}

fn finish(mut code: Asm) -> Vec<Insn> {
    code.map_value(1, 0, RESULT).store(MemSize::Dw, 1, 0, R(0));
    code.mov(0, 2).exit();
    code.finish()
}

fn programs() -> Vec<(String, Vec<Insn>)> {
    let mut fib = Asm::new();
    fib.map_value(2, 0, FLAGS).load(MemSize::Dw, 4, 2, 0);
    fib.map_value(2, 0, 0).mov(3, 64).call(HelperId::FIB_LOOKUP);
    let mut mtu = Asm::new();
    mtu.map_value(3, 0, 8).map_value(5, 0, 0);
    mtu.load(MemSize::W, 2, 5, 0)
        .load(MemSize::Dw, 4, 5, 16)
        .load(MemSize::Dw, 5, 5, 24);
    mtu.call(HelperId::CHECK_MTU);
    vec![
        ("fib".to_owned(), finish(fib)),
        ("mtu".to_owned(), finish(mtu)),
    ]
}

fn vm(cell: &Arc<FibCell>, kind: EngineKind) -> Vm {
    let builder = VmBuilder::assembled(vec![map()], programs());
    builder
        .routes(Arc::clone(cell))
        .engine(kind)
        .build()
        .unwrap()
}

fn ask(engine: &mut dyn Engine, program: &str, question: &[u8; LEN]) -> Vec<u8> {
    engine
        .update("question".into(), &[0; 4], question, UpdateFlags::ANY)
        .unwrap();
    engine.test_run(program, &TestRun::once(&[0; 100])).unwrap();
    engine.lookup("question".into(), &[0; 4]).unwrap().unwrap()
}

fn result(answer: &[u8]) -> i64 {
    i64::from_ne_bytes(*answer[RESULT as usize..].first_chunk().unwrap())
}

struct Generator(Rng);

impl Generator {
    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.next_u32() as usize % of.len()]
    }

    fn question(&mut self) -> [u8; LEN] {
        let mut question = [0; LEN];
        let family = self.one(&[2, 2, 2, 10, 10, 3]);
        question[0] = family;
        question[1] = self.one(&[6, 17]);
        let port = self.one(&[53u16, 80, 99, 100]).to_be_bytes();
        question[4..6].copy_from_slice(&port);
        let len = self.one(&[
            0u16,
            64,
            1290,
            1300,
            1301,
            1400,
            1401,
            1500,
            1501,
            9000,
            u16::MAX,
        ]);
        question[6..8].copy_from_slice(&len.to_ne_bytes());
        let interface = self.one(&[2u32, 2, 3, 4, 5, 1, 12, 99, 0]);
        question[8..12].copy_from_slice(&interface.to_ne_bytes());
        question[12] = self.one(&[0, 0, 0, 8, 0x10, 0x20]);
        for at in [16, 32] {
            let address = self.address(family == 10);
            question[at..at + address.len()].copy_from_slice(&address);
        }
        let table = self.one(&[254u32, 255, 100, 101, 0, 7]);
        question[48..52].copy_from_slice(&table.to_ne_bytes());
        let mark = self.one(&[0u32, 7, 9, 0x10, 0x20, 0x33]);
        question[52..56].copy_from_slice(&mark.to_ne_bytes());
        let flags = self.one(&[
            0u64, 1, 4, 9, 16, 20, 32, 36, 48, 2, 3, 6, 18, 34, 25, 11, 63, 64,
        ]);
        question[FLAGS as usize..][..8].copy_from_slice(&flags.to_ne_bytes());
        question
    }

    fn address(&mut self, v6: bool) -> Vec<u8> {
        let [third, fourth] = [
            self.one(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 200]),
            self.one(&[1, 2, 3, 5, 9, 130, 254, 255]),
        ];
        if !v6 {
            let start = self.one(&[
                [172, 16],
                [172, 16],
                [172, 17],
                [10, 1],
                [10, 2],
                [10, 4],
                [8, 8],
                [192, 168],
            ]);
            return vec![start[0], start[1], third, fourth];
        }
        let mut address = vec![0; 16];
        let start = self.one(&[
            [0xfd, 0x10],
            [0xfd, 0x10],
            [0xfd, 1],
            [0xfd, 2],
            [0xfd, 3],
            [0x20, 1],
            [0xfe, 0x80],
            [0xff, 2],
        ]);
        address[..2].copy_from_slice(&start);
        // As `fd10:12::` is written.
        address[3] = if start == [0xfd, 0x10] {
            self.one(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x12])
        } else {
            0
        };
        address[15] = fourth;
        address
    }
}

/// Asks the kernel and both engines the same questions; returns how often each result came.
fn compare(count: usize, seed: u64) -> std::collections::BTreeMap<i64, usize> {
    let cell = Arc::new(FibCell::new());
    let tables = Reader::open().unwrap().read().unwrap();
    cell.publish(Arc::new(Snapshot::new(&tables)));
    let mut kernel = KernelEngine::assembled(vec![map()], programs()).unwrap();
    let mut engines = [vm(&cell, EngineKind::Interp), vm(&cell, EngineKind::Jit)];
    let mut generator = Generator(Rng::seeded(seed));
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..count {
        let question = generator.question();
        let want = ask(&mut kernel, "fib", &question);
        for engine in &mut engines {
            let got = ask(engine, "fib", &question);
            assert_eq!(result(&got), result(&want), "{question:02x?}");
            assert_eq!(got, want, "{question:02x?}");
        }
        *seen.entry(result(&want)).or_default() += 1;
    }
    seen
}

#[test]
fn lookups_agree_without_rules_and_with() {
    let Some(namespace) = namespace("sqfib") else {
        return;
    };
    let (plain, ruled) = namespace
        .run(|| {
            let plain = compare(4000, 1);
            ip(RULES);
            (plain, compare(4000, 2))
        })
        .unwrap();
    // All outcomes but encapsulation, which no interface here can do, and three errors.
    for outcome in [0, 1, 2, 3, 4, 5, 7, 8, -19, -22, -97] {
        assert!(
            plain.contains_key(&outcome) || ruled.contains_key(&outcome),
            "{outcome}: {plain:?} {ruled:?}"
        );
    }
}

#[test]
fn packet_lengths_are_checked_alike() {
    let Some(namespace) = namespace("sqmtu") else {
        return;
    };
    let check = || {
        let cell = Arc::new(FibCell::new());
        let tables = Reader::open().unwrap().read().unwrap();
        cell.publish(Arc::new(Snapshot::new(&tables)));
        let mut kernel = KernelEngine::assembled(vec![map()], programs()).unwrap();
        let mut vm = vm(&cell, EngineKind::Jit);
        for ifindex in [0u32, 1, 2, 3, 99] {
            for len in [0u32, 1, 1400, 1401, 1500, 65536, u32::MAX] {
                for diff in [0i64, 1, -1, 1300, 1400, 70_000, i64::from(i32::MIN)] {
                    for flags in [0u64, 1, 1 << 32] {
                        let mut question = [0; LEN];
                        question[..4].copy_from_slice(&ifindex.to_ne_bytes());
                        question[8..12].copy_from_slice(&len.to_ne_bytes());
                        question[16..24].copy_from_slice(&diff.to_ne_bytes());
                        question[24..32].copy_from_slice(&flags.to_ne_bytes());
                        let want = ask(&mut kernel, "mtu", &question);
                        let got = ask(&mut vm, "mtu", &question);
                        assert_eq!(got, want, "{ifindex} {len} {diff} {flags}");
                    }
                }
            }
        }
    };
    namespace.run(check).unwrap();
}

#[test]
fn flows_spread_over_the_paths_there_are() {
    let Some(namespace) = namespace("sqpath") else {
        return;
    };
    let check = || {
        ip("
route add 172.20.0.0/16 nexthop via 10.1.0.2 weight 3 nexthop via 10.2.0.2 weight 1 nexthop via 10.4.0.2
-6 route add fd20::/16 nexthop via fd01::2 nexthop via fd02::9
");
        let cell = Arc::new(FibCell::new());
        let tables = Reader::open().unwrap().read().unwrap();
        cell.publish(Arc::new(Snapshot::new(&tables)));
        let mut kernel = KernelEngine::assembled(vec![map()], programs()).unwrap();
        let mut vm = vm(&cell, EngineKind::Interp);
        for family in [2, 10] {
            let paths = |engine: &mut dyn Engine| {
                let mut paths = std::collections::BTreeMap::new();
                for n in 0..400u16 {
                    let mut question = [0; LEN];
                    (question[0], question[8], question[15]) = (family, 2, 0);
                    question[16..20].copy_from_slice(&[10, 1, 0, 9]);
                    let start: &[u8] = if family == 2 {
                        &[172, 20]
                    } else {
                        &[0xfd, 0x20]
                    };
                    question[32..34].copy_from_slice(start);
                    let end = if family == 2 { 34 } else { 46 };
                    question[end..end + 2].copy_from_slice(&n.to_be_bytes());
                    let answer = ask(engine, "fib", &question);
                    assert_eq!(result(&answer), 0);
                    // Interface, next router and both Ethernet addresses belong together.
                    let path = (answer[8], answer[32..48].to_vec(), answer[52..64].to_vec());
                    *paths.entry(path).or_insert(0) += 1;
                }
                paths
            };
            let (want, got) = (paths(&mut kernel), paths(&mut vm));
            assert_eq!(got.len(), 2);
            assert!(got.keys().eq(want.keys()), "{got:?} {want:?}");
            if family == 2 {
                let shares: Vec<i32> = got.into_values().collect();
                assert!((240..360).contains(&shares[0]), "{shares:?}");
            }
        }
    };
    namespace.run(check).unwrap();
}

#[test]
fn changes_reach_the_worker() {
    let Some(namespace) = namespace("sqwatch") else {
        return;
    };
    let check = || {
        let cell = Arc::new(FibCell::new());
        let watcher = Watcher::start(Arc::clone(&cell)).unwrap();
        let mut vm = vm(&cell, EngineKind::Interp);
        let mut question = [0; LEN];
        (question[0], question[8]) = (2, 2);
        question[32..36].copy_from_slice(&[198, 18, 0, 1]);
        let until = |vm: &mut Vm, outcome: i64| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while result(&ask(vm, "fib", &question)) != outcome {
                assert!(Instant::now() < deadline, "no answer {outcome}");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        until(&mut vm, 7);
        ip("route add 198.18.0.0/16 via 10.1.0.2");
        until(&mut vm, 0);
        ip("neighbour del 10.1.0.2 dev a");
        until(&mut vm, 7);
        ip("rule add priority 5 to 198.18.0.0/24 prohibit");
        until(&mut vm, 3);
        sysctl("ipv4/conf/a/forwarding", "0");
        until(&mut vm, 5);
        ip("link del dev a");
        until(&mut vm, -19);
        drop(watcher);
    };
    namespace.run(check).unwrap();
}
