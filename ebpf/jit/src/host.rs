//! The machine that code is generated for: this one, with all it offers.

use std::sync::Arc;

use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};

use crate::JitError;

#[cfg(target_arch = "x86_64")]
const NAME: &str = "x86_64-unknown-linux-gnu";
#[cfg(target_arch = "aarch64")]
const NAME: &str = "aarch64-unknown-linux-gnu";
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("native code is generated for x86-64 and aarch64 only");

/// The code generator for this machine.
pub(crate) fn isa() -> Result<OwnedTargetIsa, JitError> {
    let failed = |error: &dyn std::fmt::Display| JitError::Host(error.to_string());
    let mut flags = settings::builder();
    let verify = if cfg!(debug_assertions) {
        "true"
    } else {
        "false"
    };
    // Code runs only facts or checks, on data the program may read anyway: no Spectre guards. Stacks are
    // small and bounded by the call depth: no probes.
    for (name, value) in [
        ("opt_level", "speed"),
        ("enable_verifier", verify),
        ("is_pic", "false"),
        ("unwind_info", "false"),
        ("machine_code_cfg_info", "true"),
        ("preserve_frame_pointers", "false"),
        ("enable_probestack", "false"),
        ("enable_heap_access_spectre_mitigation", "false"),
        ("enable_table_access_spectre_mitigation", "false"),
    ] {
        flags.set(name, value).map_err(|e| failed(&e))?;
    }
    let mut builder = isa::lookup_by_name(NAME).map_err(|e| failed(&e))?;
    for feature in features() {
        builder.enable(feature).map_err(|e| failed(&e))?;
    }
    let isa: Arc<_> = builder
        .finish(settings::Flags::new(flags))
        .map_err(|e| failed(&e))?;
    Ok(isa)
}

/// Instruction set extensions that this processor has and the code generator knows.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    [
        ("has_sse3", is_x86_feature_detected!("sse3")),
        ("has_ssse3", is_x86_feature_detected!("ssse3")),
        ("has_sse41", is_x86_feature_detected!("sse4.1")),
        ("has_sse42", is_x86_feature_detected!("sse4.2")),
        ("has_avx", is_x86_feature_detected!("avx")),
        ("has_avx2", is_x86_feature_detected!("avx2")),
        ("has_popcnt", is_x86_feature_detected!("popcnt")),
        ("has_bmi1", is_x86_feature_detected!("bmi1")),
        ("has_bmi2", is_x86_feature_detected!("bmi2")),
        ("has_lzcnt", is_x86_feature_detected!("lzcnt")),
    ]
    .into_iter()
    .filter_map(|(name, has)| has.then_some(name))
    .collect()
}

/// Instruction set extensions that this processor has and the code generator knows.
#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    let lse = std::arch::is_aarch64_feature_detected!("lse");
    lse.then_some("has_lse").into_iter().collect()
}
