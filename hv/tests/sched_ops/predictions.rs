//! What a guest taught a CPU to predict is forgotten before another runs there, and only then.

use super::{Cpu, domain};
use crate::support::{boot_as, dice::Dice, this_cpu};
use oxen_abi::sched::SCHEDOP_YIELD;
use oxen_hv::{
    Hypervisor,
    caller::Caller,
    speculation::{IBPB, PRED_CMD, Plan},
};

fn cpu(plan: Plan) -> Cpu {
    Cpu::new(boot_as(256, |hv| Hypervisor { speculation: plan, ..hv }))
}

impl Cpu {
    /// Whether predictions were forgotten since the last look.
    fn forgot(&self) -> bool {
        self.hv.machine().peripherals.lock().unwrap().msrs.remove(&PRED_CMD) == Some(IBPB)
    }
}

#[test]
fn a_cpu_forgets_its_predictions_when_it_goes_to_another_guest_and_only_then() {
    let mut cpu = cpu(Plan { switch_barrier: true, ..Plan::NOTHING });
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ 7);
    let _guests = [1, 2, 3].map(|id| domain(cpu.hv, id, 2));
    cpu.leave();
    assert!(cpu.forgot(), "who was there before is not known");
    let (mut switches, mut within) = (0, 0);
    for _ in 0..2000 {
        let before = cpu.who();
        if dice.roll(2) == 0 {
            let _ = cpu.call(Caller::sched_op, [u64::from(SCHEDOP_YIELD), 0, 0]);
        }
        cpu.run(dice.wide(3_000_000));
        let after = cpu.who();
        assert_eq!(cpu.forgot(), before.0 != after.0, "{before:?} to {after:?}");
        switches += u32::from(before.0 != after.0);
        within += u32::from(before.0 == after.0 && before.1 != after.1);
    }
    assert!(switches > 100 && within > 10, "{switches} switches, {within} within a guest");
}

#[test]
fn a_slot_that_comes_back_is_another_guests() {
    let cpu = cpu(Plan { switch_barrier: true, ..Plan::NOTHING });
    let shared = cpu.hv.cpu(this_cpu()).unwrap();
    let first = domain(cpu.hv, 1, 0);
    let owner = first.owner();
    assert!(shared.comes_from_another(owner) && !shared.comes_from_another(owner));
    cpu.hv.domains.remove(&first).unwrap();
    drop(first);
    let second = domain(cpu.hv, 2, 0);
    assert_eq!(second.owner(), owner, "the same slot");
    assert!(shared.comes_from_another(second.owner()));
}

#[test]
fn nothing_is_written_where_nothing_is_to_be_done() {
    let mut cpu = cpu(Plan::NOTHING);
    let _guests = [1, 2].map(|id| domain(cpu.hv, id, 1));
    cpu.leave();
    for _ in 0..100 {
        cpu.run(3_000_000);
        assert!(!cpu.forgot());
    }
}
