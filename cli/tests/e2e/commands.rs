//! katran's commands, as its users type them.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use squalus_testkit::stay_on_this_cpu;
use squalus_testkit::traffic::{self, Flow, Macs, RawSender, Transport};

use crate::support::{
    CLIENT, FAR_END, FAR_MAC, INTERFACE, MAC, Net, SERVER, SQUALUS, object, wait_until,
};

/// Runs the client with these words and returns its standard output; what it logs goes through `said`.
#[track_caller]
fn client(net: &Net, line: &str, said: &[&str]) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let outcome = net.run(CLIENT, &words);
    outcome.expect(0, said);
    outcome.stdout
}

#[test]
fn help_is_help() {
    let Some(net) = Net::new("sq-e2e-help") else {
        return;
    };
    for (program, words, usage) in [
        (SQUALUS, &["serve", "--help"][..], "Usage: squalus serve ["),
        (SERVER, &["-help"], "Usage: katran_server_grpc ["),
        (CLIENT, &["-help"], "Usage: katran_goclient ["),
        (SQUALUS, &["demo", "--help"], "Usage: squalus demo ["),
    ] {
        let outcome = net.run(program, words);
        outcome.expect(0, &[]);
        assert!(outcome.stdout.contains(usage), "{outcome:#?}");
    }
}

/// A day and a time, as Go writes them, before the rest of a line.
fn without_time(line: &str) -> &str {
    let (time, rest) = line.split_at_checked(20).unwrap_or(("", line));
    let is_time = time.bytes().filter(u8::is_ascii_digit).count() == 14;
    if is_time { rest } else { line }
}

#[test]
fn the_commands_of_katrans_users() {
    for backend in ["kernel", "user"] {
        let Some(net) = Net::new("sq-e2e-commands") else {
            return;
        };
        let object = object();
        let line = format!(
            "-balancer_prog {} -default_mac b8:3f:d2:2a:e5:11 -forwarding_cores=0 -intf={INTERFACE} \
             -hc_forwarding=false -lru_size 1000 -shutdown_delay=0 -backend {backend}",
            object.display()
        );
        let words: Vec<&str> = line.split(' ').collect();
        let mut server = net.spawn(SERVER, &words);
        server.wait_for_stdout("ready: ");
        assert!(net.attached().is_some());

        let said = ["Adding service: 192.168.1.13:5678 6\n", "Vip modified\n"];
        assert_eq!(client(&net, "-A -t 192.168.1.13:5678", &said), "exiting\n");
        let said = ["Reals modified\n"];
        client(&net, "-a -t 192.168.1.13:5678 -r 192.168.1.11", &said);
        client(
            &net,
            "-a -t 192.168.1.13:5678 -r 192.168.1.12 -w 3 -rf LOCAL_REAL",
            &said,
        );
        client(
            &net,
            "--A --u [fc00::13]:53 --vf NO_SPORT",
            &["Vip modified\n"],
        );
        client(&net, "-a -u [fc00::13]:53 -r fc00::11", &said);

        let outcome = net.run(CLIENT, &["-l"]);
        outcome.expect(0, &["vips len 2\n"]);
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        let expected = [
            "VIP:         192.168.1.13 Port:   5678 Protocol: tcp",
            "Vip's flags: ",
            " ->192.168.1.11      weight: 1 flags: ",
            " ->192.168.1.12      weight: 3 flags:  LOCAL_REAL ",
            "VIP:             fc00::13 Port:     53 Protocol: udp",
            "Vip's flags:  NO_SPORT ",
            " ->fc00::11          weight: 1 flags: ",
        ];
        for line in expected {
            assert!(lines.contains(&line), "no `{line}`: {outcome:#?}");
        }
        assert_eq!(without_time(&outcome.stderr), "vips len 2\n");

        session_tables_count(&net);
        client(
            &net,
            "-change_mac 02:00:00:00:00:99",
            &["Mac address changed!\n"],
        );
        client(&net, "-list_mac", &["Mac address is 02:00:00:00:00:99\n"]);
        client(&net, "-d -t 192.168.1.13:5678 -r 192.168.1.11", &said);
        client(&net, "-D -t 192.168.1.13:5678", &["Vip modified\n"]);
        client(&net, "-C", &[]);
        client(&net, "-l", &["vips len 0\n"]);
        server.stop();
        assert_eq!(net.attached(), None);
        assert!(
            !net.interfaces().contains(&"sq-pass0".to_owned()),
            "the tap is left"
        );
    }
}

/// `-s -lru` while packets of one session come, all on one CPU: after the first they hit.
fn session_tables_count(net: &Net) {
    let macs = Macs {
        source: FAR_MAC,
        destination: MAC,
    };
    let flow = Flow {
        source: Ipv4Addr::new(192, 168, 1, 5),
        destination: Ipv4Addr::new(192, 168, 1, 13),
        source_port: 1234,
        destination_port: 5678,
    };
    let frame = traffic::ipv4(macs, flow, Transport::TcpData, 6);
    let done = AtomicBool::new(false);
    let (last, sent) = std::thread::scope(|scope| {
        let _done = DoneWhenDropped(&done);
        let traffic = scope.spawn(|| {
            net.namespace.run(|| {
                // Each CPU has a session table.
                stay_on_this_cpu();
                let sender = RawSender::open(FAR_END).unwrap();
                let mut sent = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    sender.send(&frame).unwrap();
                    sent += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
                sent
            })
        });
        // The first packet may come late.
        let all_hit = || {
            let last = last_second(net);
            (last.packets > 0 && last.hits == 100.0).then_some(last)
        };
        let last = wait_until(all_hit);
        done.store(true, Ordering::Relaxed);
        (last, traffic.join().unwrap().unwrap())
    });
    let last = last.expect("packets of a session that is known hit");
    assert!(last.packets <= sent, "{last:?} of {sent}");
}

struct DoneWhenDropped<'a>(&'a AtomicBool);

impl Drop for DoneWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What `-s -lru` says of a second.
#[derive(Debug)]
struct LruSecond {
    packets: u64,
    /// Percent.
    hits: f64,
}

/// The last of three lines, of which the first tells of all the time before.
fn last_second(net: &Net) -> LruSecond {
    let outcome = net.run(CLIENT, &["-s", "-lru", "-count", "3"]);
    outcome.expect(0, &[]);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!((lines.len(), lines[3]), (4, "exiting"), "{outcome:#?}");
    for line in &lines[..3] {
        let shape: String = line
            .chars()
            .filter(|c| !"0123456789.".contains(*c))
            .collect();
        assert_eq!(
            shape,
            "summary:  pkts/sec lru hit: % lru miss: % (tcp syn: % tcp non-syn: % udp: %) \
             fallback lru hit:  pkts/sec"
        );
    }
    let (_, hits) = lines[2].split_once(" lru hit: ").unwrap();
    LruSecond {
        packets: lines[2].split(' ').nth(1).unwrap().parse().unwrap(),
        hits: hits.split_once('%').unwrap().0.parse().unwrap(),
    }
}
