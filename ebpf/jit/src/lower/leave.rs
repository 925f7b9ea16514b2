//! How functions are left: with a result, or because the run ends.

use cranelift_codegen::ir::{
    self, BlockArg, InstBuilder, Value as Ir,
    types::{I32, I64},
};
use squalus_runtime::Env;
use squalus_ssa::ir::{Reason, Region, Value};

use super::Lowering;
use crate::run::Outcome;

impl Lowering<'_, '_> {
    pub(super) fn return_(&mut self, value: Ir, status: u64) {
        let status = self.b.ins().iconst(I64, status.cast_signed());
        self.b.ins().return_(&[value, status]);
    }

    pub(super) fn trap_if(&mut self, condition: Value, reason: Reason, slot: u32) {
        let condition = self.value(condition);
        let reason = match reason {
            Reason::Known(reason) => self.b.ins().iconst(I64, reason as i64),
            Reason::Condition => condition,
        };
        let slot = self.b.ins().iconst(I64, i64::from(slot));
        let (trap, on) = (self.trap_target(), self.b.create_block());
        let args = [BlockArg::Value(reason), BlockArg::Value(slot)];
        self.b.ins().brif(condition, trap, &args, on, &[]);
        // Values made for this block are good in the next one, which it dominates.
        self.b.switch_to_block(on);
    }

    pub(super) fn trap_target(&mut self) -> ir::Block {
        if let Some(trap) = self.trap {
            return trap;
        }
        let trap = self.b.create_block();
        self.b.append_block_param(trap, I64);
        self.b.append_block_param(trap, I64);
        self.b.set_cold_block(trap);
        self.trap = Some(trap);
        trap
    }

    pub(super) fn trap_block(&mut self, trap: ir::Block) {
        self.switch(trap);
        let flags = self.regions.flags(Region::Env);
        let params = [Env::OFFSET_TRAP, Env::OFFSET_TRAP_SLOT];
        for (n, offset) in params.into_iter().enumerate() {
            let value = self.b.block_params(trap)[n];
            let word = self.b.ins().ireduce(I32, value);
            self.b.ins().store(flags, word, self.env, offset as i32);
        }
        let zero = self.b.ins().iconst(I64, 0);
        self.return_(zero, Outcome::TRAPPED);
    }
}
