//! Calls: of the program's functions, of ours, and tail calls.

use cranelift_codegen::ir::{
    ExtFuncData, ExternalName, FuncRef, InstBuilder, MemFlagsData, SigRef, StackSlotData,
    StackSlotKind, UserExternalName, Value as Ir, types::I64,
};
use squalus_analysis::FuncId;
use squalus_ssa::ir::Value;

use super::{Lowering, signature};
use crate::run::Outcome;

impl Lowering<'_, '_> {
    /// A lookup out of line, with a copy of the key.
    pub(super) fn lookup(&mut self, map: Ir, key: &[Value]) -> Ir {
        let data = StackSlotData::new(StackSlotKind::ExplicitSlot, key.len().max(1) as u32 * 8, 3);
        let slot = self.b.create_sized_stack_slot(data);
        for (n, &word) in key.iter().enumerate() {
            let word = self.value(word);
            let place = self.b.ins().stack_addr(I64, slot, n as i32 * 8);
            self.b
                .ins()
                .store(MemFlagsData::new().with_notrap(), word, place, 0);
        }
        let place = self.b.ins().stack_addr(I64, slot, 0);
        let zero = self.b.ins().iconst(I64, 0);
        let args = [self.env, map, place, zero, zero, zero];
        self.call_native(self.module.calls.lookup, &args, 1)[0]
    }

    pub(super) fn local(&mut self, func: FuncId, args: &[Value]) -> Ir {
        let args: Vec<Ir> = args.iter().map(|&arg| self.value(arg)).collect();
        let args: Vec<Ir> = [self.env].into_iter().chain(args).collect();
        let callee = self.callee(func);
        let call = self.b.ins().call(callee, &args);
        let (value, status) = (self.b.inst_results(call)[0], self.b.inst_results(call)[1]);
        self.leave_if(status);
        value
    }

    /// Passes on that the run was ended in a callee.
    pub(super) fn leave_if(&mut self, status: Ir) {
        let (leave, on) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(leave);
        self.b.ins().brif(status, leave, &[], on, &[]);
        self.switch(leave);
        let zero = self.b.ins().iconst(I64, 0);
        self.b.ins().return_(&[zero, status]);
        self.switch(on);
    }

    pub(super) fn tail_call(&mut self, args: [Value; 3]) {
        let [context, map, index] = args.map(|arg| self.value(arg));
        let zero = self.b.ins().iconst(I64, 0);
        let args = [self.env, context, map, index, zero, zero];
        let resolve = self.module.calls.resolve_tail_call;
        let taken = self.call_native(resolve, &args, 1)[0];
        let (replace, on) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(taken, replace, &[], on, &[]);
        self.switch(replace);
        if self.function.id == 0 {
            let zero = self.b.ins().iconst(I64, 0);
            self.return_(zero, Outcome::TAIL_CALL);
        } else {
            let nested = self.module.calls.nested_tail_call;
            let results = self.call_native(nested, &[self.env], 2);
            self.b.ins().return_(&results);
        }
        self.switch(on);
    }

    /// Calls a function of ours at a fixed address.
    pub(super) fn call_native(&mut self, function: usize, args: &[Ir], returns: usize) -> Vec<Ir> {
        let signature = self.signature(args.len(), returns);
        let target = self.b.ins().iconst(I64, function as i64);
        let call = self.b.ins().call_indirect(signature, target, args);
        self.b.inst_results(call).to_vec()
    }

    fn signature(&mut self, params: usize, returns: usize) -> SigRef {
        let known = self.signatures.iter();
        let mut known = known.filter(|(p, r, _)| *p == params && *r == returns);
        if let Some((_, _, signature)) = known.next() {
            return *signature;
        }
        let new = signature(self.calling, params, returns);
        let new = self.b.import_signature(new);
        self.signatures.push((params, returns, new));
        new
    }

    /// The native function of a subprogram (not of the program itself).
    fn callee(&mut self, func: FuncId) -> FuncRef {
        if let Some((_, function)) = self.functions.iter().find(|(known, _)| *known == func) {
            return *function;
        }
        let signature = self.signature(6, 2);
        let name = UserExternalName::new(0, func);
        let name = self.b.func.declare_imported_user_function(name);
        let function = self.b.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature,
            colocated: true,
            patchable: false,
        });
        self.functions.push((func, function));
        function
    }
}
