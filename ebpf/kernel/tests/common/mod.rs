//! What the tests of this folder share.
#![allow(dead_code, reason = "each test uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether the test can run; says loudly if not.
pub fn root(test: &str) -> bool {
    // SAFETY: the call has no arguments and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("SKIPPED {test}: loading programs needs root");
    }
    root
}

pub fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|i| i as u8).collect()
}

/// Runs `work` on a thread with a network namespace of its own, which ends with the thread.
pub fn in_namespace(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: the call has no pointers and moves only this thread.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            work();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

pub fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.expect("ip starts").success(), "ip {arguments}");
}

/// A bpf file system of one test's own.
pub struct BpfFs(PathBuf);

impl BpfFs {
    pub fn mount(test: &str) -> BpfFs {
        let name = format!("sq-bpffs-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a directory to mount on");
        let status = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&path)
            .status();
        let mounted = status.is_ok_and(|status| status.success());
        assert!(mounted, "mounting a bpf file system");
        BpfFs(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        if unmounted.is_ok_and(|status| status.success()) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }
}
