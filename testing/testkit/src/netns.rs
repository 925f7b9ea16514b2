//! Network namespaces that live exactly as long as this process.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread;

use crate::TestkitError;

/// A network namespace without a name; it ends with its last descriptor, thread and process.
#[derive(Debug)]
pub struct Namespace {
    label: String,
    fd: OwnedFd,
}

impl Namespace {
    /// Makes an empty namespace. `label` appears in messages and thread names only.
    ///
    /// # Errors
    /// If the process may not make namespaces.
    pub fn new(label: &str) -> Result<Namespace, TestkitError> {
        let open = || -> io::Result<OwnedFd> {
            // SAFETY: unshare has no memory arguments; it moves only this (short-lived) thread.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        };
        let what = format!("making a network namespace for {label}");
        let fd = on_thread(label, open).map_err(TestkitError::system(what))?;
        Ok(Namespace {
            label: label.to_owned(),
            fd,
        })
    }

    /// What the namespace is called in messages.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The descriptor, for moving links into the namespace.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// A path under which other programs can enter the namespace (`nsenter --net=PATH`) while this process lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.raw_fd())
    }

    /// Runs `work` on a thread inside the namespace and waits for it. Sockets opened there stay there.
    ///
    /// # Errors
    /// If the thread cannot enter the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, TestkitError> {
        let fd = self.raw_fd();
        let result = on_thread(&self.label, || {
            enter(fd)?;
            Ok(work())
        });
        result.map_err(TestkitError::system(format!(
            "entering the namespace of {}",
            self.label
        )))
    }

    /// Starts a thread inside the namespace.
    ///
    /// # Errors
    /// If the thread cannot be started or cannot enter the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>, TestkitError> {
        let what = format!("starting a thread in the namespace of {}", self.label);
        let fd = match self.fd.try_clone() {
            Ok(fd) => fd,
            Err(error) => return Err(TestkitError::system(what)(error)),
        };
        let (entered, wait) = std::sync::mpsc::sync_channel(1);
        let handle = thread::Builder::new()
            .name(self.label.clone())
            .spawn(move || {
                let outcome = enter(fd.as_raw_fd());
                let ok = outcome.is_ok();
                let _ = entered.send(outcome);
                ok.then(work)
            });
        let handle = handle.map_err(TestkitError::system(what.clone()))?;
        match wait.recv() {
            Ok(Ok(())) => Ok(thread::spawn(move || {
                let value = handle
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                value.expect("a thread that entered its namespace runs its work")
            })),
            Ok(Err(error)) => Err(TestkitError::system(what)(error)),
            Err(_) => Err(TestkitError::system(what)(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Starts a program inside the namespace. It is killed when the calling thread (and so this process) ends.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn_command(&self, command: &mut Command) -> Result<Child, TestkitError> {
        let fd = self.raw_fd();
        let parent = std::process::id();
        // SAFETY: the closure only makes async-signal-safe system calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                if libc::getppid().cast_unsigned() != parent {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                enter(fd)
            });
        }
        let what = format!(
            "starting {} on {}",
            command.get_program().display(),
            self.label
        );
        command.spawn().map_err(TestkitError::system(what))
    }
}

/// Moves the calling thread, and so must be called before any other starts, into a user namespace in which
/// the caller is root over new network namespaces.
///
/// # Errors
/// If the system does not allow unprivileged user namespaces.
pub fn enter_user_namespace() -> Result<(), TestkitError> {
    // SAFETY: getuid and getgid cannot fail and touch no memory.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    // SAFETY: unshare has no memory arguments.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } != 0 {
        return Err(TestkitError::system("making a user namespace")(
            io::Error::last_os_error(),
        ));
    }
    let write = |file: &str, text: String| {
        std::fs::write(file, text).map_err(TestkitError::system(format!("writing {file}")))
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// What this process may do to networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Everything: make namespaces and load programs into the kernel. Root.
    Kernel,
    /// Make network namespaces and open raw sockets in them, but load no XDP programs: root of a user
    /// namespace only, as in a container.
    Namespaces,
    /// Nothing of this.
    None,
}

impl Rights {
    /// Those of the calling thread.
    #[must_use]
    pub fn of_process() -> Rights {
        // linux/capability.h
        const NET_ADMIN: u32 = 12;
        const NET_RAW: u32 = 13;
        const SYS_ADMIN: u32 = 21;
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        let has = |capability: u32| effective & 1 << capability != 0;
        if !(has(NET_ADMIN) && has(NET_RAW) && has(SYS_ADMIN)) {
            return Rights::None;
        }
        // The kernel gives the first user namespace this number (PROC_USER_INIT_INO), and rights over BPF
        // to nobody outside it.
        match std::fs::read_link("/proc/self/ns/user") {
            Ok(name) if name.as_os_str() == "user:[4026531837]" => Rights::Kernel,
            _ => Rights::Namespaces,
        }
    }
}

fn enter(fd: RawFd) -> io::Result<()> {
    // SAFETY: setns has no memory arguments; the descriptor is a network namespace that outlives the call.
    match unsafe { libc::setns(fd, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn on_thread<T: Send>(name: &str, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let handle = thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, work)?;
        handle
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
