//! The kernel backend: the object in the kernel, its program on an interface.

use squalus_engine::{Engine, MapAccess};
use squalus_kernel::{Attached, KernelEngine, KernelError, Mode};

use crate::dataplane::{Dataplane, Info};
use crate::error::DataplaneError;
use crate::load::LoadOptions;

/// An object loaded into the kernel, forwarding once it is attached.
///
/// Load, provision (`Controller::load`), then attach: so no packet meets a program that knows nothing yet.
/// Dropping it, or the end of the process however it comes, detaches the program.
#[derive(Debug)]
pub struct KernelDataplane {
    engine: KernelEngine,
    program: String,
    asked: Mode,
    attached: Option<Attached>,
}

impl KernelDataplane {
    /// Loads the object; nothing is attached.
    ///
    /// # Errors
    /// If the object won't load; the verifier's last words are in the message.
    pub fn load(object: &[u8], options: &LoadOptions) -> Result<Self, DataplaneError> {
        // Our reader says more about a malformed object than the kernel backend's, and trusts it less.
        options.parse(object)?;
        let kernel_options = squalus_kernel::LoadOptions {
            globals: options.globals.clone(),
            max_entries: options.max_entries.clone(),
            ..squalus_kernel::LoadOptions::default()
        };
        let engine = KernelEngine::load(object, &kernel_options).map_err(refused)?;
        let program = options.choose(&engine.programs())?;
        Ok(KernelDataplane {
            engine,
            program,
            asked: Mode::Auto,
            attached: None,
        })
    }

    /// Attaches the program to an interface and starts forwarding. Says what was obtained, and with
    /// [`Mode::Auto`] in generic mode why.
    ///
    /// # Errors
    /// If there is no such interface, or it has an XDP program already (this one counts too).
    pub fn attach(&mut self, interface: &str, mode: Mode) -> Result<Vec<String>, DataplaneError> {
        let attached = self
            .engine
            .attach(&self.program, interface, mode)
            .map_err(refused)?;
        let notices = attached.fallback().map(|errno| {
            format!(
                "`{interface}` refuses XDP in its driver ({errno}); the program runs in generic mode, which is slower"
            )
        });
        self.asked = mode;
        self.attached = Some(attached);
        Ok(notices.into_iter().collect())
    }

    /// The loaded object, for what only the kernel can.
    #[must_use]
    pub fn engine(&self) -> &KernelEngine {
        &self.engine
    }

    /// The loaded object, to run frames by hand.
    pub fn engine_mut(&mut self) -> &mut KernelEngine {
        &mut self.engine
    }

    /// The program that frames go to.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }
}

fn refused(error: KernelError) -> DataplaneError {
    DataplaneError::caused(error.to_string(), error)
}

impl Dataplane for KernelDataplane {
    fn maps(&self) -> &dyn MapAccess {
        &self.engine
    }

    fn info(&self) -> Info {
        let attached = self.attached.as_ref();
        Info {
            backend: "kernel",
            engine: self.engine.name().to_owned(),
            place: attached.map_or_else(String::new, |at| at.interface().to_owned()),
            asked: self.asked.to_string(),
            obtained: attached.map_or("not attached".to_owned(), |at| at.mode().to_string()),
            workers: self.engine.cpus(),
        }
    }

    fn detach(&mut self) -> Result<(), DataplaneError> {
        if let Some(attached) = self.attached.take() {
            attached.detach();
        }
        Ok(())
    }
}
