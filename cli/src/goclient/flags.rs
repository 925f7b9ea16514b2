//! The command line.

use std::ffi::OsString;
use std::num::NonZeroU64;

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, value_parser};
use squalus_core::Mac;
use squalus_proto::katran as proto;

use super::stats::What;
use super::target::{
    REAL_FLAGS, RealTarget, Service, VIP_FLAGS, parse_address, parse_flag, parse_mapping,
    parse_service,
};
use crate::dashes::{Dialect, rewrite, switch};

const TCP: i32 = 6;
const UDP: i32 = 17;

/// One run of the client.
#[derive(Debug, PartialEq)]
pub(super) struct Invocation {
    pub server: String,
    pub command: Command,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    ChangeMac(String),
    ListMac,
    AddVip {
        service: Service,
        flags: i64,
    },
    EditVip {
        service: Service,
        flags: i64,
        set: bool,
    },
    DelVip(Service),
    List,
    AddReal {
        service: Service,
        real: RealTarget,
    },
    DelReal {
        service: Service,
        real: RealTarget,
    },
    MapQuic(proto::QuicReal),
    UnmapQuic(proto::QuicReal),
    ListQuic,
    Clear,
    AddHealth {
        somark: u32,
        address: String,
    },
    DelHealth {
        somark: u32,
    },
    ListHealth,
    Stats {
        what: What,
        count: Option<NonZeroU64>,
    },
}

impl Invocation {
    /// Parses arguments, of which the first is the program's name.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = command();
        let args = rewrite(&command, Dialect::Go, args);
        let matches = command.try_get_matches_from_mut(args)?;
        match Flags(&matches).command() {
            Ok(todo) => {
                let server = matches
                    .get_one::<String>("server")
                    .cloned()
                    .unwrap_or_default();
                Ok(Invocation {
                    server,
                    command: todo,
                })
            }
            Err(problem) => Err(command.error(ErrorKind::ValueValidation, problem)),
        }
    }
}

/// The flags given.
struct Flags<'a>(&'a ArgMatches);

impl Flags<'_> {
    fn on(&self, name: &str) -> bool {
        self.0.get_one::<bool>(name).copied().unwrap_or(false)
    }

    /// A flag's text; an empty one is none, as in katran.
    fn text(&self, name: &str) -> Option<&str> {
        let text = self.0.get_one::<String>(name).map(String::as_str);
        text.filter(|text| !text.is_empty())
    }

    /// The one thing to do: of several, the first in katran's order.
    fn command(&self) -> Result<Command, String> {
        if let Some(mac) = self.text("change_mac") {
            let mac: Mac = mac
                .parse()
                .map_err(|error: squalus_core::CoreError| error.to_string())?;
            return Ok(Command::ChangeMac(mac.to_string()));
        }
        if self.on("list_mac") {
            return Ok(Command::ListMac);
        }
        self.service_command()
            .or_else(|| self.other_command())
            .unwrap_or_else(|| {
                Err(
                    "nothing to do: give one of -A -E -D -a -e -d -l -s -C and the like; see -help"
                        .into(),
                )
            })
    }

    fn service_command(&self) -> Option<Result<Command, String>> {
        let vip = |make: fn(Service, i64, bool) -> Command| {
            let flags = i64::from(self.flags("vf", &VIP_FLAGS)?);
            Ok(make(self.service()?, flags, !self.on("unset")))
        };
        let real =
            |make: fn(Service, RealTarget) -> Command| Ok(make(self.service()?, self.real()?));
        Some(if self.on("A") {
            vip(|service, flags, _| Command::AddVip { service, flags })
        } else if self.on("l") {
            Ok(Command::List)
        } else if self.on("D") {
            self.service().map(Command::DelVip)
        } else if self.on("E") {
            vip(|service, flags, set| Command::EditVip {
                service,
                flags,
                set,
            })
        } else if self.on("a") || self.on("e") {
            real(|service, real| Command::AddReal { service, real })
        } else if self.on("d") {
            real(|service, real| Command::DelReal { service, real })
        } else {
            return None;
        })
    }

    fn other_command(&self) -> Option<Result<Command, String>> {
        Some(if self.on("del_qm") {
            self.mapping().map(Command::UnmapQuic)
        } else if self.text("quic_mapping").is_some() {
            self.mapping().map(Command::MapQuic)
        } else if self.on("list_qm") {
            Ok(Command::ListQuic)
        } else if self.on("C") {
            Ok(Command::Clear)
        } else if let Some(address) = self.text("new_hc") {
            let somark = self.somark();
            parse_address(address).map(|address| Command::AddHealth { somark, address })
        } else if self.on("del_hc") {
            Ok(Command::DelHealth {
                somark: self.somark(),
            })
        } else if self.on("list_hc") {
            Ok(Command::ListHealth)
        } else if self.on("s") {
            let count = self.0.get_one::<NonZeroU64>("count").copied();
            Ok(Command::Stats {
                what: self.what(),
                count,
            })
        } else {
            return None;
        })
    }

    fn service(&self) -> Result<Service, String> {
        match (self.text("t"), self.text("u")) {
            (Some(tcp), None) => parse_service(tcp, TCP),
            (None, Some(udp)) => parse_service(udp, UDP),
            (None, None) => {
                Err("name the service with -t ADDRESS:PORT or -u ADDRESS:PORT".to_owned())
            }
            (Some(_), Some(_)) => Err("give -t or -u, not both".to_owned()),
        }
    }

    fn real(&self) -> Result<RealTarget, String> {
        let address = self.text("r").ok_or("name the real with -r ADDRESS")?;
        let flags = self.flags("rf", &REAL_FLAGS)?.cast_signed();
        let weight = self.0.get_one::<i32>("w").copied().unwrap_or(1);
        Ok(RealTarget {
            address: parse_address(address)?,
            weight,
            flags,
        })
    }

    fn flags(&self, name: &str, known: &[(&str, u32)]) -> Result<u32, String> {
        self.text(name)
            .map_or(Ok(0), |word| parse_flag(word, known))
    }

    fn mapping(&self) -> Result<proto::QuicReal, String> {
        let mapping = self.text("quic_mapping");
        parse_mapping(mapping.ok_or("name the mapping with -quic_mapping ADDRESS=ID")?)
    }

    fn somark(&self) -> u32 {
        self.0.get_one::<u32>("somark").copied().unwrap_or(0)
    }

    fn what(&self) -> What {
        if self.on("sum") {
            What::Sum
        } else if self.on("lru") {
            What::Lru
        } else if self.on("icmp") {
            What::Icmp
        } else {
            What::PerVip
        }
    }
}

fn value(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// The command, for parsing, help and completions.
#[must_use]
pub fn command() -> clap::Command {
    clap::Command::new("katran_goclient")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Client of the balancer with the command line of katran's client")
        .override_usage("katran_goclient [-FLAG | -FLAG VALUE | -FLAG=VALUE]...")
        .after_help(
            "Flags take one dash or two, and their value behind `=` or as the next word. \
             With -s -lru, the shares behind `lru miss` are fractions (0.25% is a quarter) and the one of \
             UDP is what TCP's leave of 1, as katran's client prints them.\n\
             The exit status is 0 for success, 1 for failure, 2 for wrong usage.",
        )
        .args_override_self(true)
        .args(service_flags())
        .args(real_flags())
        .args(stats_flags())
        .args(health_flags())
        .args(other_flags())
}

fn service_flags() -> [Arg; 8] {
    [
        switch("A", false, "Add a virtual service"),
        switch("E", false, "Change flags of a virtual service"),
        switch("D", false, "Delete a virtual service"),
        switch("l", false, "List virtual services and their reals"),
        value(
            "t",
            "ADDRESS:PORT",
            "The service: TCP; IPv6 as [fc00::1]:80, port 0 for any",
        ),
        value("u", "ADDRESS:PORT", "The service: UDP"),
        value(
            "vf",
            "FLAG",
            "Flag of the service: NO_SPORT, NO_LRU, QUIC_VIP, DPORT_HASH or LOCAL_VIP",
        ),
        switch(
            "unset",
            false,
            "With -E, clear the flag instead of setting it",
        ),
    ]
}

fn real_flags() -> [Arg; 6] {
    [
        switch("a", false, "Add a real to the service"),
        switch("e", false, "Change the weight of a real of the service"),
        switch("d", false, "Delete a real from the service"),
        value("r", "ADDRESS", "The real"),
        value("w", "NUMBER", "Its weight; 0 drains it")
            .default_value("1")
            .value_parser(value_parser!(i32).range(0..)),
        value("rf", "FLAG", "Flag of a new real: LOCAL_REAL"),
    ]
}

fn stats_flags() -> [Arg; 5] {
    [
        switch(
            "s",
            false,
            "Show counters every second; of each service, unless told otherwise",
        ),
        switch("sum", false, "With -s, the sum of all services"),
        switch(
            "lru",
            false,
            "With -s, hits and misses of the session tables",
        ),
        switch(
            "icmp",
            false,
            "With -s, ICMP 'packet too big' messages sent",
        ),
        value(
            "count",
            "NUMBER",
            "With -s, end after so many times (not a flag of katran's client)",
        )
        .value_parser(value_parser!(NonZeroU64)),
    ]
}

fn health_flags() -> [Arg; 4] {
    [
        value(
            "new_hc",
            "ADDRESS",
            "Send packets with the mark of -somark to this real",
        ),
        value("somark", "NUMBER", "Socket mark")
            .default_value("0")
            .value_parser(value_parser!(u32)),
        switch("del_hc", false, "Stop that for the mark of -somark"),
        switch("list_hc", false, "List marks and their reals"),
    ]
}

fn other_flags() -> [Arg; 7] {
    [
        switch(
            "list_mac",
            false,
            "Show the MAC address of the default router",
        ),
        value(
            "change_mac",
            "MAC",
            "Change the MAC address of the default router",
        ),
        switch("C", false, "Delete all virtual services and health checks"),
        value("quic_mapping", "ADDRESS=ID", "Give a real a QUIC server id"),
        switch("list_qm", false, "List QUIC server ids"),
        switch(
            "del_qm",
            false,
            "Take the server id of -quic_mapping away instead",
        ),
        value("server", "ADDRESS:PORT", "Where the server listens")
            .default_value("127.0.0.1:50051"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, clap::Error> {
        let words = std::iter::once("katran_goclient").chain(line.split_whitespace());
        Invocation::parse(words.map(OsString::from))
    }

    fn todo(line: &str) -> Command {
        parse(line)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .command
    }

    fn service(text: &str, protocol: i32) -> Service {
        parse_service(text, protocol).unwrap()
    }

    #[test]
    fn the_command_has_katrans_29_flags_and_one_more() {
        command().debug_assert();
        let named = command()
            .get_arguments()
            .filter(|arg| arg.get_long().is_some())
            .count();
        assert_eq!(named, 30);
    }

    #[test]
    fn commands() {
        let tcp = || service("10.0.0.1:80", TCP);
        let vip_flags = |line| match todo(line) {
            Command::AddVip { flags, .. } => (flags, true),
            Command::EditVip { flags, set, .. } => (flags, set),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            todo("-A -t 10.0.0.1:80"),
            Command::AddVip {
                service: tcp(),
                flags: 0
            }
        );
        assert_eq!(vip_flags("-A -t 10.0.0.1:80 -vf DPORT_HASH"), (8, true));
        assert_eq!(
            vip_flags("-E -u [fc00::1]:80 -vf=NO_LRU -unset"),
            (2, false)
        );
        assert_eq!(
            todo("--D --u=10.0.0.1:80"),
            Command::DelVip(service("10.0.0.1:80", UDP))
        );
        let real = |weight, flags| RealTarget {
            address: "fc00::1".into(),
            weight,
            flags,
        };
        let add = |weight, flags| Command::AddReal {
            service: tcp(),
            real: real(weight, flags),
        };
        assert_eq!(todo("-a -t 10.0.0.1:80 -r fc00::1"), add(1, 0));
        assert_eq!(todo("-e -t 10.0.0.1:80 -r fc00::1 -w 0"), add(0, 0));
        assert_eq!(
            todo("-a -t 10.0.0.1:80 -r fc00::1 -w=7 -rf LOCAL_REAL"),
            add(7, 2)
        );
        let del = Command::DelReal {
            service: tcp(),
            real: real(1, 0),
        };
        assert_eq!(todo("-d -t 10.0.0.1:80 -r fc00::1"), del);
        let mapping = || parse_mapping("10.0.0.1=5").unwrap();
        assert_eq!(
            todo("-quic_mapping 10.0.0.1=5"),
            Command::MapQuic(mapping())
        );
        assert_eq!(
            todo("-del_qm -quic_mapping 10.0.0.1=5"),
            Command::UnmapQuic(mapping())
        );
        let health = Command::AddHealth {
            somark: 3,
            address: "10.0.0.1".into(),
        };
        assert_eq!(todo("-new_hc 10.0.0.1 -somark 3"), health);
        assert_eq!(todo("-del_hc -somark 3"), Command::DelHealth { somark: 3 });
        let mac = Command::ChangeMac("b8:3f:d2:2a:e5:01".into());
        assert_eq!(todo("-change_mac B8:3F:d2:2a:e5:1"), mac);
        for (line, command) in [
            ("-l", Command::List),
            ("-C", Command::Clear),
            ("-list_mac", Command::ListMac),
            ("-list_qm", Command::ListQuic),
            ("-list_hc", Command::ListHealth),
        ] {
            assert_eq!(todo(line), command);
        }
    }

    #[test]
    fn statistics() {
        let stats = |line| match todo(line) {
            Command::Stats { what, count } => (what, count.map_or(0, NonZeroU64::get)),
            other => panic!("{other:?}"),
        };
        assert_eq!(stats("-s"), (What::PerVip, 0));
        assert_eq!(stats("-s -sum"), (What::Sum, 0));
        assert_eq!(stats("-s -lru -count 5"), (What::Lru, 5));
        assert_eq!(stats("-s -icmp --count=1"), (What::Icmp, 1));
    }

    #[test]
    fn the_first_command_in_katrans_order_wins() {
        assert_eq!(todo("-s -C -l -list_mac"), Command::ListMac);
        assert_eq!(todo("-D -l -t 10.0.0.1:80"), Command::List);
        assert_eq!(parse("-l -server=[::1]:9").unwrap().server, "[::1]:9");
    }

    #[test]
    fn bad_input_is_refused_with_status_2() {
        for (line, message) in [
            ("", "nothing to do"),
            ("-A", "name the service"),
            ("-A -t 10.0.0.1", "`10.0.0.1` is no service"),
            ("-A -u [fc00::1]", "is no service"),
            ("-A -t 1.1.1.1:1 -u 1.1.1.1:1", "not both"),
            ("-A -t 1.1.1.1:1 -vf NO_SUCH", "unrecognized flag: NO_SUCH"),
            ("-a -t 1.1.1.1:1", "name the real"),
            ("-a -t 1.1.1.1:1 -r 10.0.0", "`10.0.0` is no IP address"),
            ("-a -t 1.1.1.1:1 -r 10.0.0.1 -w -1", "-1 is not in 0.."),
            ("-a -t 1.1.1.1:1 -r 10.0.0.1 -w x", "invalid value 'x'"),
            (
                "-a -t 1.1.1.1:1 -r 10.0.0.1 -rf LOCAL",
                "unrecognized flag: LOCAL",
            ),
            ("-del_qm", "name the mapping"),
            ("-quic_mapping 10.0.0.1", "is no mapping"),
            ("-change_mac 00:11", "is no MAC address"),
            ("-new_hc nowhere", "is no IP address"),
            ("-del_hc -somark 4294967296", "4294967296 is not in"),
            ("-s -count 0", "invalid value '0'"),
            ("-lruu", "a similar argument exists: '--lru'"),
            ("-l stray", "unexpected argument 'stray'"),
            ("-A -t", "a value is required"),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            let text = error.to_string();
            assert!(text.contains(message), "{line}: {text}");
        }
        assert_eq!(parse("-help").expect_err("shows help").exit_code(), 0);
    }
}
