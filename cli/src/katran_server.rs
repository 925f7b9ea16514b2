//! The command line of `katran_server_grpc`: all its flags, and a few of our own.
//!
//! Parsing only; starting the balancer is `serve`'s. Defaults are katran's, except that the server listens
//! on loopback unless told otherwise: the service has no authentication.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, value_parser};
use squalus_core::Mac;

use crate::dashes::{Dialect, rewrite, switch};

/// What the server was asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// `-server`: where to listen for gRPC, `address:port`.
    pub server: String,
    /// `-intf`: the interface to balance on.
    pub interface: String,
    /// `-hc_intf`: the interface for health checks; the main one if not given.
    pub hc_interface: Option<String>,
    /// `-ipip_intf`: the IPv4 tunnel for health checks.
    pub ipip_interface: String,
    /// `-ipip6_intf`: the IPv6 tunnel for health checks.
    pub ipip6_interface: String,
    /// `-balancer_prog`: the object; the built-in one if not given.
    pub balancer_prog: Option<PathBuf>,
    /// `-healthchecker_prog`: the object of the health-check program.
    pub healthchecker_prog: PathBuf,
    /// `-default_mac`: MAC address of the default router.
    pub default_mac: Mac,
    /// `-priority`: of the tc filters for health checks.
    pub priority: u32,
    /// `-map_path`: pinned program array of a root program (shared mode); standalone if not given.
    pub map_path: Option<PathBuf>,
    /// `-prog_pos`: position in that array.
    pub prog_pos: u32,
    /// `-hc_forwarding`: whether to forward health checks.
    pub hc_forwarding: bool,
    /// `-shutdown_delay`: how long to go on after a signal.
    pub shutdown_delay: Duration,
    /// `-lru_size`: sessions of all forwarding cores together.
    pub lru_size: u64,
    /// `-forwarding_cores`: the CPUs that forward.
    pub forwarding_cores: Vec<u32>,
    /// `-numa_nodes`: the NUMA node of each of them; empty, or as many as cores.
    pub numa_nodes: Vec<u32>,
    /// `-backend`: where the program runs. Not katran's.
    pub backend: BackendChoice,
    /// `-mode`: how the kernel backend attaches. Not katran's.
    pub mode: ModeChoice,
    /// `-engine`: what executes the program in userspace. Not katran's.
    pub engine: EngineChoice,
    /// `-specialise`: whether the userspace program may have the contents of maps in its code. Not katran's.
    pub specialise: bool,
    /// `-io`: how the user backend gets frames. Not katran's.
    pub io: IoChoice,
    /// `-src_v4`: this host's address in outer IPv4 headers, for objects that show it. Not katran's.
    pub source_v4: Option<Ipv4Addr>,
    /// `-src_v6`: this host's address in outer IPv6 headers, for objects that show it. Not katran's.
    pub source_v6: Option<Ipv6Addr>,
}

/// A choice among words.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$word_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$word_meta])* $variant,)+ }

        impl $name {
            const WORDS: &[&str] = &[$($word,)+];

            /// The word on the command line.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }

            fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)+ _ => None }
            }
        }
    };
}

choice! {
    /// Where the program runs.
    BackendChoice {
        /// In the kernel, attached to the interface.
        Kernel = "kernel",
        /// In userspace.
        User = "user",
    }
}

choice! {
    /// How the kernel backend attaches.
    ModeChoice {
        /// Native if the driver can, else generic, which is said.
        Auto = "auto",
        /// In the driver, or not at all.
        Native = "native",
        /// Behind the driver.
        Generic = "generic",
    }
}

choice! {
    /// What executes the program in userspace.
    EngineChoice {
        /// Native code.
        Jit = "jit",
        /// The reference interpreter.
        Interp = "interp",
    }
}

choice! {
    /// How the user backend gets frames.
    IoChoice {
        /// AF_XDP, else AF_PACKET, which is said.
        Auto = "auto",
        /// AF_XDP in zero-copy mode, or not at all.
        AfXdpZeroCopy = "af_xdp_zc",
        /// AF_XDP in copy mode.
        AfXdp = "af_xdp",
        /// AF_PACKET.
        AfPacket = "af_packet",
    }
}

impl ServerOptions {
    /// Parses arguments, of which the first is the program's name.
    ///
    /// # Errors
    /// The error prints itself as clap's do: [`clap::Error::exit`] ends with status 2, or with 0 after
    /// `-help` and `-version`.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut args = args.into_iter().peekable();
        let name = args.peek().map_or_else(String::new, program_name);
        let mut command = command().override_usage(format!("{name} {FLAGS}"));
        let args = rewrite(&command, Dialect::Gflags, args);
        let matches = command.try_get_matches_from_mut(args)?;
        let options = Self::from_matches(&matches);
        options
            .check()
            .map_err(|problem| command.error(clap::error::ErrorKind::ValueValidation, problem))?;
        Ok(options)
    }

    fn from_matches(matches: &ArgMatches) -> Self {
        let text = |name: &str| required::<String>(matches, name);
        let given = |name: &str| Some(text(name)).filter(|value| !value.is_empty());
        let milliseconds = required::<i32>(matches, "shutdown_delay").max(0);
        ServerOptions {
            server: text("server"),
            interface: text("intf"),
            hc_interface: given("hc_intf"),
            ipip_interface: text("ipip_intf"),
            ipip6_interface: text("ipip6_intf"),
            balancer_prog: given("balancer_prog").map(PathBuf::from),
            healthchecker_prog: text("healthchecker_prog").into(),
            default_mac: required(matches, "default_mac"),
            priority: required(matches, "priority"),
            map_path: given("map_path").map(PathBuf::from),
            prog_pos: required(matches, "prog_pos"),
            hc_forwarding: required(matches, "hc_forwarding"),
            shutdown_delay: Duration::from_millis(u64::from(milliseconds.unsigned_abs())),
            lru_size: required(matches, "lru_size"),
            forwarding_cores: required::<Numbers>(matches, "forwarding_cores").0,
            numa_nodes: required::<Numbers>(matches, "numa_nodes").0,
            backend: chosen(BackendChoice::from_word(&text("backend"))),
            mode: chosen(ModeChoice::from_word(&text("mode"))),
            engine: chosen(EngineChoice::from_word(&text("engine"))),
            specialise: required(matches, "specialise"),
            io: chosen(IoChoice::from_word(&text("io"))),
            source_v4: matches.get_one("src_v4").copied(),
            source_v6: matches.get_one("src_v6").copied(),
        }
    }

    /// Whether the flags go together.
    fn check(&self) -> Result<(), String> {
        let (cores, nodes) = (self.forwarding_cores.len(), self.numa_nodes.len());
        if nodes != 0 && nodes != cores {
            return Err(format!(
                "-numa_nodes names {nodes} nodes for {cores} forwarding cores; name one node for each core"
            ));
        }
        Ok(())
    }
}

/// A flag that has a default.
fn required<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> T {
    let value = matches.get_one::<T>(name).cloned();
    value.expect("every such flag has a default")
}

fn chosen<T>(choice: Option<T>) -> T {
    choice.expect("the parser takes only the words of the choice")
}

/// Numbers between commas, possibly none.
#[derive(Clone, Debug)]
struct Numbers(Vec<u32>);

fn parse_numbers(text: &str) -> Result<Numbers, String> {
    if text.is_empty() {
        return Ok(Numbers(Vec::new()));
    }
    let numbers = text.split(',').map(|word| {
        let number = word.trim().parse::<u32>();
        number.map_err(|_| format!("`{word}` is no number; write numbers between commas, as 0,1,2"))
    });
    numbers.collect::<Result<_, _>>().map(Numbers)
}

fn flag(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .default_value(default)
        .help(help)
}

fn choice(name: &'static str, words: &'static [&'static str], help: &'static str) -> Arg {
    let default = words.first().copied().unwrap_or_default();
    flag(name, "WORD", default, help).value_parser(PossibleValuesParser::new(words))
}

/// Flags in the usage line.
const FLAGS: &str = "[-FLAG | -FLAG VALUE | -FLAG=VALUE]...";

/// What the user called us.
fn program_name(path: &OsString) -> String {
    let name = Path::new(path).file_name().unwrap_or(path);
    name.to_string_lossy().into_owned()
}

/// The command, for parsing, help and completions.
#[must_use]
pub fn command() -> Command {
    Command::new("katran_server_grpc")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Layer 4 load balancer with the command line of katran's server")
        .override_usage(format!("katran_server_grpc {FLAGS}"))
        .after_help(
            "Flags take one dash or two, and their value behind `=` or as the next word; \
             switches are -flag, -flag=false or -noflag.",
        )
        .args_override_self(true)
        .args(interface_flags())
        .args(program_flags())
        .args(forwarding_flags())
        .args(own_flags())
}

fn interface_flags() -> [Arg; 6] {
    [
        flag(
            "server",
            "ADDRESS:PORT",
            squalus_server::DEFAULT_ADDRESS,
            "Where to listen for gRPC, without authentication (katran's default is 0.0.0.0:50051)",
        ),
        flag("intf", "NAME", "eth0", "Interface to balance on"),
        flag(
            "hc_intf",
            "NAME",
            "",
            "Interface for health checks, if not the same",
        ),
        flag(
            "ipip_intf",
            "NAME",
            "ipip0",
            "IPv4 tunnel interface for health checks",
        ),
        flag(
            "ipip6_intf",
            "NAME",
            "ipip60",
            "IPv6 tunnel interface for health checks",
        ),
        flag(
            "default_mac",
            "MAC",
            "00:00:00:00:00:01",
            "MAC address of the default router",
        )
        .value_parser(str::parse::<Mac>),
    ]
}

fn program_flags() -> [Arg; 5] {
    [
        flag(
            "balancer_prog",
            "PATH",
            "",
            "Object with the balancer; without, the built-in one",
        ),
        flag(
            "healthchecker_prog",
            "PATH",
            "./healthchecking_ipip.o",
            "Object with the health-check program",
        ),
        flag("priority", "NUMBER", "2307", "Priority of tc filters")
            .value_parser(value_parser!(u32)),
        flag(
            "map_path",
            "PATH",
            "",
            "Pinned program array of a root XDP program; without, standalone",
        ),
        flag("prog_pos", "NUMBER", "2", "Position in that array").value_parser(value_parser!(u32)),
    ]
}

fn forwarding_flags() -> [Arg; 5] {
    [
        switch("hc_forwarding", true, "Forward health checks"),
        flag(
            "shutdown_delay",
            "MS",
            "10000",
            "Milliseconds to go on forwarding after a signal",
        )
        .value_parser(value_parser!(i32).range(0..)),
        flag(
            "lru_size",
            "NUMBER",
            "8000000",
            "Sessions, of all forwarding cores together",
        )
        .value_parser(value_parser!(u64).range(1..)),
        flag(
            "forwarding_cores",
            "LIST",
            "",
            "CPUs that forward, as 0,1,2",
        )
        .value_parser(parse_numbers),
        flag(
            "numa_nodes",
            "LIST",
            "",
            "NUMA node of each forwarding core",
        )
        .value_parser(parse_numbers),
    ]
}

fn own_flags() -> [Arg; 7] {
    let address = |name, help| Arg::new(name).long(name).value_name("ADDRESS").help(help);
    [
        choice("backend", BackendChoice::WORDS, "Where the program runs"),
        choice("mode", ModeChoice::WORDS, "How the kernel backend attaches"),
        choice(
            "engine",
            EngineChoice::WORDS,
            "What executes the program in userspace",
        ),
        switch(
            "specialise",
            true,
            "Make VIPs, MAC and settings part of the compiled code, anew when they change",
        ),
        choice("io", IoChoice::WORDS, "How the user backend gets frames"),
        address(
            "src_v4",
            "This host's address in outer IPv4 headers, for GUE objects",
        )
        .value_parser(value_parser!(Ipv4Addr)),
        address(
            "src_v6",
            "This host's address in outer IPv6 headers, for GUE objects",
        )
        .value_parser(value_parser!(Ipv6Addr)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<ServerOptions, clap::Error> {
        let words = std::iter::once("katran_server_grpc").chain(line.split_whitespace());
        ServerOptions::parse(words.map(OsString::from))
    }

    #[test]
    fn the_command_is_sound() {
        command().debug_assert();
        for arg in command().get_arguments() {
            assert!(
                arg.get_help()
                    .is_some_and(|help| !help.to_string().is_empty()),
                "{arg}"
            );
        }
    }

    #[test]
    fn defaults_are_katrans_but_for_the_address() {
        let options = parse("").unwrap();
        assert_eq!(options.server, "127.0.0.1:50051");
        assert_eq!(
            (options.interface.as_str(), options.hc_interface),
            ("eth0", None)
        );
        assert_eq!(options.default_mac.to_string(), "00:00:00:00:00:01");
        assert_eq!((options.priority, options.prog_pos), (2307, 2));
        assert!(options.hc_forwarding);
        assert_eq!(options.shutdown_delay, Duration::from_secs(10));
        assert_eq!(options.lru_size, 8_000_000);
        assert_eq!(
            (options.forwarding_cores, options.numa_nodes),
            (vec![], vec![])
        );
        assert_eq!((options.map_path, options.balancer_prog), (None, None));
        assert_eq!(options.backend.word(), "kernel");
        assert!(options.specialise);
    }

    #[test]
    fn as_users_of_katran_type_it() {
        let options = parse(
            "-balancer_prog balancer.bpf.o -default_mac b8:3f:d2:2a:e5:11 -forwarding_cores=0 \
             -intf=enp24s0f1np1 -hc_forwarding=false",
        )
        .unwrap();
        assert_eq!(options.balancer_prog, Some("balancer.bpf.o".into()));
        assert_eq!(options.default_mac.to_string(), "b8:3f:d2:2a:e5:11");
        assert_eq!(options.forwarding_cores, [0]);
        assert_eq!(options.interface, "enp24s0f1np1");
        assert!(!options.hc_forwarding);
    }

    #[test]
    fn all_flags_with_one_dash_or_two() {
        let line = "-server [::1]:5000 -intf a -hc_intf b -ipip_intf c -ipip6_intf d -balancer_prog e \
                    -healthchecker_prog f -default_mac 0:1:2:3:4:5 -priority 9 -map_path g -prog_pos 1 \
                    -nohc_forwarding -shutdown_delay 5 -lru_size 100 -forwarding_cores 3,5 \
                    -numa_nodes 0,1 -backend user -mode generic -engine interp -nospecialise -io af_packet \
                    -src_v4 192.0.2.1 -src_v6 2001:db8::1";
        let options = parse(line).unwrap();
        assert_eq!(
            parse(&line.replace(" -", " --").replacen('-', "--", 1)).unwrap(),
            options
        );
        let expected = ServerOptions {
            server: "[::1]:5000".into(),
            interface: "a".into(),
            hc_interface: Some("b".into()),
            ipip_interface: "c".into(),
            ipip6_interface: "d".into(),
            balancer_prog: Some("e".into()),
            healthchecker_prog: "f".into(),
            default_mac: Mac([0, 1, 2, 3, 4, 5]),
            priority: 9,
            map_path: Some("g".into()),
            prog_pos: 1,
            hc_forwarding: false,
            shutdown_delay: Duration::from_millis(5),
            lru_size: 100,
            forwarding_cores: vec![3, 5],
            numa_nodes: vec![0, 1],
            backend: BackendChoice::User,
            mode: ModeChoice::Generic,
            engine: EngineChoice::Interp,
            specialise: false,
            io: IoChoice::AfPacket,
            source_v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
            source_v6: Some("2001:db8::1".parse().unwrap()),
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn switches_and_repetition() {
        for (line, on) in [
            ("-hc_forwarding", true),
            ("--hc_forwarding=1", true),
            ("--nohc_forwarding", false),
            ("-hc_forwarding=no", false),
            ("-hc_forwarding=false -hc_forwarding", true),
        ] {
            assert_eq!(parse(line).unwrap().hc_forwarding, on, "{line}");
        }
        assert_eq!(
            parse("-intf a -intf=b").unwrap().interface,
            "b",
            "the last one counts"
        );
    }

    #[test]
    fn bad_input_is_refused_with_status_2() {
        for (line, message) in [
            (
                "-forwarding_core=1",
                "a similar argument exists: '--forwarding_cores'",
            ),
            ("-interface eth0", "unexpected argument '--interface'"),
            ("-default_mac 00:00", "`00:00` is no MAC address"),
            ("-forwarding_cores 1,x", "`x` is no number"),
            ("-forwarding_cores 1,", "`` is no number"),
            (
                "-forwarding_cores 1,2 -numa_nodes 0",
                "1 nodes for 2 forwarding cores",
            ),
            ("-numa_nodes 0", "1 nodes for 0 forwarding cores"),
            ("-lru_size 0", "not in 1.."),
            ("-lru_size -1", "invalid"),
            ("-shutdown_delay -1", "not in 0.."),
            ("-shutdown_delay", "a value is required"),
            ("-backend cloud", "[possible values: kernel, user]"),
            ("-hc_forwarding=maybe", "a switch is true or false"),
            ("-intf eth0 stray", "unexpected argument 'stray'"),
            ("-src_v4 ::1", "invalid IPv4 address"),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            let text = error.to_string();
            assert!(text.contains(message), "{line}: {text}");
        }
        assert_eq!(parse("-help").expect_err("shows help").exit_code(), 0);
    }
}
