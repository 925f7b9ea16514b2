//! The suite itself: an engine that errs must be found out, with a small case.

use std::time::Duration;

use squalus_conformance::engines::{Kind, Subject};
use squalus_conformance::{Case, Mask, Step, Watch, compare, maps, minimise};
use squalus_engine::{Engine, EngineError, MapAccess, MapRef, TestResult, TestRun};
use squalus_isa::{MapDef, UpdateFlags};

/// What the faulty engine gets wrong.
#[derive(Clone, Copy)]
enum Fault {
    /// The verdict of commands for this map, once it has seen one for the other.
    Verdict { map: u8, after: u8 },
    /// The last byte of values that the control plane writes.
    Value,
}

struct Faulty {
    engine: Box<dyn Engine>,
    fault: Fault,
    armed: bool,
}

impl MapAccess for Faulty {
    fn maps(&self) -> Vec<MapDef> {
        self.engine.maps()
    }

    fn cpus(&self) -> usize {
        self.engine.cpus()
    }

    fn lookup(&self, map: MapRef<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.engine.lookup(map, key)
    }

    fn update(
        &self,
        map: MapRef<'_>,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
    ) -> Result<(), EngineError> {
        let mut value = value.to_vec();
        if let (Fault::Value, Some(last)) = (self.fault, value.last_mut()) {
            *last ^= 1;
        }
        self.engine.update(map, key, &value, flags)
    }

    fn update_batch(&self, map: MapRef<'_>, keys: &[u8], values: &[u8]) -> Result<(), EngineError> {
        self.engine.update_batch(map, keys, values)
    }

    fn delete(&self, map: MapRef<'_>, key: &[u8]) -> Result<(), EngineError> {
        self.engine.delete(map, key)
    }

    fn next_key(
        &self,
        map: MapRef<'_>,
        key: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        self.engine.next_key(map, key)
    }

    fn create_inner(&self, outer: &str, key: &[u8], def: &MapDef) -> Result<(), EngineError> {
        self.engine.create_inner(outer, key, def)
    }
}

impl Engine for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn programs(&self) -> Vec<String> {
        self.engine.programs()
    }

    fn test_run(&mut self, program: &str, run: &TestRun<'_>) -> Result<TestResult, EngineError> {
        let mut result = self.engine.test_run(program, run)?;
        if let Fault::Verdict { map, after } = self.fault {
            match run.frame.get(15) {
                Some(seen) if *seen == after => self.armed = true,
                Some(seen) if *seen == map && self.armed => result.return_value = 1,
                _ => {}
            }
        }
        Ok(result)
    }
}

fn engines(fault: Fault) -> Vec<Box<dyn Engine>> {
    let subject = Subject::new(maps::OBJECT);
    let mut engines = subject
        .load(&[Kind::Interp, Kind::Interp])
        .expect("it loads");
    let engine = engines.pop().expect("two were loaded");
    engines.push(Box::new(Faulty {
        engine,
        fault,
        armed: false,
    }));
    engines
}

fn differences(fault: Fault, case: &Case, watch: &Watch) -> Vec<squalus_conformance::Difference> {
    let mut engines = engines(fault);
    let mut engines: Vec<&mut dyn Engine> = engines
        .iter_mut()
        .map(|engine| &mut **engine as &mut dyn Engine)
        .collect();
    compare(&mut engines, case, watch)
}

#[test]
fn a_fault_that_needs_history_is_minimised_to_two_frames() {
    let fault = Fault::Verdict { map: 5, after: 3 };
    let cpus = squalus_kernel::possible_cpus().expect("CPUs are counted");
    let case = maps::Generator::new(1, cpus).map_case(200);
    let make = || Ok::<_, std::convert::Infallible>(engines(fault));
    let found = minimise(&case, &maps::watch(), Duration::from_secs(60), make);
    let small = found.expect("engines load").expect("there is a difference");
    let maps: Vec<u8> = small.case.steps.iter().map(map_of_command).collect();
    assert_eq!(maps, [3, 5], "{}", small.case);
    assert_eq!(small.differences.len(), 1);
    assert_eq!(small.differences[0].step, Some(1));
    // The text form shows the same.
    let again = Case::parse(&small.case.to_string()).expect("what is written can be read");
    assert_eq!(again, small.case);
    assert_eq!(
        differences(fault, &again, &maps::watch()),
        small.differences
    );
}

fn map_of_command(step: &Step) -> u8 {
    match step {
        Step::Run { frame, .. } => frame[15],
        other => panic!("{other} should have been dropped"),
    }
}

#[test]
fn maps_are_compared_at_the_end_and_masks_hide_only_their_bytes() {
    let case = Case {
        steps: vec![Step::Update {
            map: "m_hash_lazy".into(),
            key: vec![1, 0, 0, 0],
            value: vec![7; 8],
            flags: UpdateFlags::ANY,
        }],
    };
    let found = differences(Fault::Value, &case, &Watch::default());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].what, "map m_hash_lazy key 01000000");
    assert_eq!(found[0].left.1, "0707070707070707");
    assert_eq!(found[0].right.1, "0707070707070706");
    let mask = |bytes, key| Watch {
        masks: vec![Mask {
            map: "m_hash_lazy".to_owned(),
            key,
            bytes,
        }],
        clock: None,
    };
    assert_eq!(differences(Fault::Value, &case, &mask(0..7, None)).len(), 1);
    assert_eq!(differences(Fault::Value, &case, &mask(7..8, None)).len(), 0);
    let other = Some(vec![2, 0, 0, 0]);
    assert_eq!(
        differences(Fault::Value, &case, &mask(7..8, other)).len(),
        1
    );
}
