//! Attachments that outlive their engine, in network namespaces. Needs root; says so where it has to skip.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::process::Command;

use common::{BpfFs, in_namespace, ip, root};
use squalus_kernel::{
    Attachments, Holder, KernelEngine, KernelError, LoadOptions, Mode, Which, attached_program,
};

const ENGINE: &[u8] = include_bytes!("objects/engine.o");

fn engine() -> KernelEngine {
    KernelEngine::load(ENGINE, &LoadOptions::default()).unwrap()
}

/// A veth pair in a namespace of its own, and a place for attachments.
fn with_cable(test: &str, work: impl FnOnce(&Attachments, &BpfFs) + Send) {
    if !root(test) {
        return;
    }
    let mounted = BpfFs::mount(test);
    let attachments = Attachments::in_directory(mounted.path().join("links"));
    in_namespace(|| {
        ip("link add sqa type veth peer name sqb");
        work(&attachments, &mounted);
    });
}

fn name_on(interface: &str) -> Option<String> {
    attached_program(interface)
        .unwrap()
        .map(|program| program.name)
}

fn files(mounted: &BpfFs) -> usize {
    std::fs::read_dir(mounted.path().join("links"))
        .unwrap()
        .count()
}

#[test]
fn an_attachment_outlives_its_engine() {
    with_cable(
        "an_attachment_outlives_its_engine",
        |attachments, mounted| {
            let report = attachments
                .attach(&engine(), "count", "sqa", Mode::Auto, false)
                .unwrap();
            assert_eq!((report.mode, report.fallback), (Mode::Native, None));
            assert!(report.pinned.exists());
            assert_eq!(name_on("sqa").as_deref(), Some("count"));
            let status = attachments.status(None).unwrap();
            // Some kernels give every namespace tunnels of its own.
            let known = ["lo", "sqa", "sqb"];
            let known = status.iter().filter(|s| known.contains(&&*s.interface));
            let status: Vec<_> = known.collect();
            let names: Vec<_> = status.iter().map(|s| s.interface.as_str()).collect();
            assert_eq!(names, ["lo", "sqb", "sqa"]);
            let running = status[2].program.as_ref().unwrap();
            assert_eq!(running.holder, Holder::Ours);
            let info = running.info.as_ref().unwrap();
            assert_eq!(
                (info.id, info.name.as_str()),
                (running.attached.id, "count")
            );
            assert_ne!(info.tag, [0; 8]);
            assert!(info.loaded.elapsed().unwrap().as_secs() < 3600);
            let again = attachments.attach(&engine(), "push", "sqa", Mode::Auto, false);
            assert!(matches!(
                again,
                Err(KernelError::Occupied {
                    holder: Holder::Ours,
                    ..
                })
            ));
            let gone = attachments.detach("sqa", Which::Ours).unwrap();
            assert_eq!(gone.name, "count");
            assert_eq!((name_on("sqa"), files(mounted)), (None, 0));
            let nothing = attachments.detach("sqa", Which::Any).unwrap_err();
            assert!(
                matches!(nothing, KernelError::NothingAttached { .. }),
                "{nothing}"
            );
        },
    );
}

#[test]
fn replacing_keeps_the_attachment_or_changes_the_mode() {
    with_cable("replacing_keeps_the_attachment", |attachments, mounted| {
        let attach = |program, mode| attachments.attach(&engine(), program, "sqa", mode, true);
        assert_eq!(attach("count", Mode::Auto).unwrap().replaced, None);
        let report = attach("push", Mode::Auto).unwrap();
        assert_eq!(report.replaced.unwrap().name, "count");
        assert_eq!(report.mode, Mode::Native);
        let report = attach("cut", Mode::Generic).unwrap();
        assert_eq!(report.mode, Mode::Generic);
        let seen = attached_program("sqa").unwrap().unwrap();
        assert_eq!((seen.name.as_str(), seen.mode), ("cut", Mode::Generic));
        assert_eq!(files(mounted), 1);
        attachments.detach("sqa", Which::Id(seen.id)).unwrap();
    });
}

#[test]
fn programs_of_others_go_only_when_asked() {
    with_cable(
        "programs_of_others_go_only_when_asked",
        |attachments, mounted| {
            // Of another process's link.
            let owner = engine();
            let theirs = owner.attach("count", "sqa", Mode::Native).unwrap();
            let refused = attachments.detach("sqa", Which::Ours).unwrap_err();
            let link = matches!(
                refused,
                KernelError::OtherProgram {
                    holder: Holder::Link(_),
                    ..
                }
            );
            assert!(link, "{refused}");
            let wrong = attachments.detach("sqa", Which::Id(u32::MAX)).unwrap_err();
            assert!(matches!(wrong, KernelError::OtherProgram { .. }), "{wrong}");
            attachments.detach("sqa", Which::Any).unwrap();
            assert_eq!(name_on("sqa"), None);
            drop(theirs);
            // Without a link, as `ip link` does it.
            owner
                .pin_program("count", &mounted.path().join("count"))
                .unwrap();
            let pinned = mounted.path().join("count");
            let pinned = pinned.to_str().unwrap();
            ip(&format!("link set dev sqa xdpgeneric pinned {pinned}"));
            let occupied = attachments
                .attach(&owner, "push", "sqa", Mode::Auto, false)
                .unwrap_err();
            assert!(
                occupied.to_string().contains("xdpgeneric off"),
                "{occupied}"
            );
            let report = attachments
                .attach(&owner, "push", "sqa", Mode::Auto, true)
                .unwrap();
            assert_eq!(report.replaced.unwrap().mode, Mode::Generic);
            assert_eq!(name_on("sqa").as_deref(), Some("push"));
        },
    );
}

#[test]
fn files_of_lost_interfaces_are_no_hindrance() {
    with_cable("files_of_lost_interfaces", |attachments, mounted| {
        attachments
            .attach(&engine(), "count", "sqa", Mode::Auto, false)
            .unwrap();
        let number = attachments.status(Some("sqa")).unwrap()[0].ifindex;
        ip("link del sqa");
        assert_eq!(files(mounted), 1);
        let status = Command::new("ip")
            .args([
                "link",
                "add",
                "sqa",
                "index",
                &number.to_string(),
                "type",
                "veth",
            ])
            .status();
        assert!(status.unwrap().success());
        assert!(
            attachments.status(Some("sqa")).unwrap()[0]
                .program
                .is_none()
        );
        attachments
            .attach(&engine(), "push", "sqa", Mode::Auto, false)
            .unwrap();
        assert_eq!(
            (name_on("sqa").as_deref(), files(mounted)),
            (Some("push"), 1)
        );
    });
}

#[test]
fn unfit_places_and_interfaces_are_named() {
    with_cable("unfit_places_and_interfaces_are_named", |attachments, _| {
        let nowhere = Attachments::in_directory(std::env::temp_dir().join("sq-no-bpffs"));
        let error = nowhere
            .attach(&engine(), "count", "sqa", Mode::Auto, false)
            .unwrap_err();
        assert!(matches!(error, KernelError::NotBpfFs(_)), "{error}");
        assert_eq!(name_on("sqa"), None);
        let error = attachments.detach("sqnone", Which::Any).unwrap_err();
        assert!(error.to_string().contains("there are: lo, "), "{error}");
        let error = attachments
            .attach(&engine(), "count", "sqa", Mode::Hardware, false)
            .unwrap_err();
        assert!(error.to_string().contains("hardware mode"), "{error}");
    });
}
