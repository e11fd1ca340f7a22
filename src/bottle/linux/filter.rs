//! Puts a system call filter into the form that the kernel runs: one program, in which the number of a call is looked up
//! by halves, and whose arguments are only looked at where something about them is refused.
//!
//! Calls that are decided by their number alone cost nothing: the kernel finds out, when the filter is set, that their answer never
//! differs, and does not ask again (since Linux 5.11). What is refused is said in `confine.rs`; this file decides nothing.

use std::collections::BTreeMap;
use std::io;

use libc::{sock_filter, sock_fprog};

/// One thing that is looked at: an argument (0 to 5, its lower 32 bits) and what it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Has one of these bits.
    AnyBit(u8, u32),
    /// These bits of it are this: argument, bits, value.
    Bits(u8, u32, u32),
    /// Is this.
    Equal(u8, u32),
    /// Is not this.
    Differs(u8, u32),
}

/// What is refused of one call.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What the caller is told.
    pub errno: i32,
    /// Refused where all tests of one of these hold; always where there is none.
    pub when: Vec<Vec<Test>>,
}

/// A filter as the kernel takes it (seccomp(2)).
#[derive(Clone, Debug)]
pub struct Filter(Vec<sock_filter>);

/// How this architecture is called by the kernel (`linux/audit.h`).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Where things lie in what a filter reads (`struct seccomp_data`): the number, the architecture, the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Calls of x86-64's second table have this bit; their numbers would slip past every comparison.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Instructions (`linux/bpf_common.h`): load a word, bitwise and, jumps, return.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn refuse(errno: i32) -> sock_filter {
    op(RETURN, libc::SECCOMP_RET_ERRNO | (errno.cast_unsigned() & libc::SECCOMP_RET_DATA))
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the rules for one system call are too long")
}

/// Makes a filter that refuses this and allows everything else.
///
/// # Errors
/// `InvalidInput` where it cannot be expressed.
pub fn compile(refused: &BTreeMap<u32, Refusal>) -> io::Result<Filter> {
    let mut program = vec![
        op(LOAD, ARCHITECTURE_AT),
        branch(IF_EQUAL, ARCHITECTURE, 1, 0),
        // The numbers of another architecture mean other calls.
        op(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        op(LOAD, NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([branch(IF_AT_LEAST, X32, 0, 1), refuse(libc::ENOSYS)]);
    let blocks =
        refused.iter().map(|(number, refusal)| Ok((*number, block(refusal)?))).collect::<io::Result<Vec<_>>>()?;
    tree(&blocks, &mut program)?;
    // The kernel's own bound, `BPF_MAXINSNS`.
    if program.len() > 4096 { Err(too_long()) } else { Ok(Filter(program)) }
}

/// Finds the call among these by halves.
fn tree(calls: &[(u32, Vec<sock_filter>)], out: &mut Vec<sock_filter>) -> io::Result<()> {
    if calls.len() <= 2 {
        for (number, block) in calls {
            let over = u8::try_from(block.len()).map_err(|_| too_long())?;
            out.push(branch(IF_EQUAL, *number, 0, over));
            out.extend(block);
        }
        out.push(op(RETURN, libc::SECCOMP_RET_ALLOW));
        return Ok(());
    }
    let (low, high) = calls.split_at(calls.len() / 2);
    let mut below = Vec::new();
    tree(low, &mut below)?;
    let first = high.first().map_or(0, |(number, _)| *number);
    match u8::try_from(below.len()) {
        Ok(over) => out.push(branch(IF_AT_LEAST, first, over, 0)),
        Err(_) => {
            let over = u32::try_from(below.len()).map_err(|_| too_long())?;
            out.extend([branch(IF_AT_LEAST, first, 0, 1), op(JUMP, over)]);
        }
    }
    out.append(&mut below);
    tree(high, out)
}

/// Judges one call. Ends in an answer on every way.
fn block(refusal: &Refusal) -> io::Result<Vec<sock_filter>> {
    let mut out = Vec::new();
    for tests in &refusal.when {
        let mut rule = Vec::new();
        // From the last to the first: each jumps over what is there already where it does not hold.
        rule.push(refuse(refusal.errno));
        for test in tests.iter().rev() {
            let over = u8::try_from(rule.len()).map_err(|_| too_long())?;
            let mut step = match *test {
                Test::AnyBit(at, bits) => vec![argument(at)?, branch(IF_ANY_BIT, bits, 0, over)],
                Test::Bits(at, bits, value) => vec![argument(at)?, op(AND, bits), branch(IF_EQUAL, value, 0, over)],
                Test::Equal(at, value) => vec![argument(at)?, branch(IF_EQUAL, value, 0, over)],
                Test::Differs(at, value) => vec![argument(at)?, branch(IF_EQUAL, value, over, 0)],
            };
            step.append(&mut rule);
            rule = step;
        }
        out.append(&mut rule);
    }
    out.push(if refusal.when.is_empty() { refuse(refusal.errno) } else { op(RETURN, libc::SECCOMP_RET_ALLOW) });
    Ok(out)
}

/// Loads the lower half of an argument; on every architecture of ours it comes first.
fn argument(at: u8) -> io::Result<sock_filter> {
    if at > 5 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a system call has six arguments"));
    }
    Ok(op(LOAD, ARGUMENTS + 8 * u32::from(at)))
}

impl Filter {
    /// Sets it on the calling process, for good; it must not be able to gain privileges any more.
    ///
    /// # Errors
    /// Those of seccomp(2).
    pub fn set(&self) -> io::Result<()> {
        let len = u16::try_from(self.0.len()).map_err(|_| too_long())?;
        let program = sock_fprog { len, filter: self.0.as_ptr().cast_mut() };
        // Before 5.16 a filter made the whole process slower, against leaks between code in one process that a filter does not keep
        // apart. Kernels before 4.17 do not know the word.
        for flags in [libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0] {
            // SAFETY: the program lives through the call, which only reads it; its length is passed with it.
            let set = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
                    flags,
                    &raw const program,
                )
            };
            if set == 0 {
                return Ok(());
            }
        }
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
pub(super) use tests::judged;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer, and whether it had to look at an argument for it.
    fn run(filter: &Filter, architecture: u32, number: u32, arguments: [u32; 6]) -> (u32, bool) {
        let (mut at, mut word, mut looked) = (0, 0, false);
        loop {
            let op = filter.0[at];
            at += 1;
            let holds = match op.code {
                LOAD if op.k >= ARGUMENTS => {
                    (word, looked) = (arguments[(op.k as usize - 16) / 8], true);
                    continue;
                }
                LOAD => {
                    word = if op.k == NUMBER { number } else { architecture };
                    continue;
                }
                AND => {
                    word &= op.k;
                    continue;
                }
                JUMP => {
                    at += op.k as usize;
                    continue;
                }
                RETURN => return (op.k, looked),
                IF_EQUAL => word == op.k,
                IF_AT_LEAST => word >= op.k,
                IF_ANY_BIT => word & op.k != 0,
                other => panic!("an instruction that the kernel's own look ahead does not know: {other}"),
            };
            at += usize::from(if holds { op.jt } else { op.jf });
        }
    }

    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    #[test]
    fn each_call_is_found_and_judged_by_its_own_rules() {
        // Enough of them that a jump is longer than a branch can be.
        let refused: BTreeMap<u32, Refusal> = (0..300u32)
            .map(|n| {
                let when = match n % 3 {
                    0 => vec![],
                    1 => vec![vec![Test::AnyBit(2, 0o6000)], vec![Test::Bits(3, 0xf000, 0x2000)]],
                    _ => {
                        vec![vec![Test::Differs(0, 1), Test::Differs(0, 2)], vec![Test::Equal(0, 2), Test::Equal(1, n)]]
                    }
                };
                (2 * n + 1, Refusal { errno: libc::EPERM, when })
            })
            .collect();
        let filter = compile(&refused).unwrap();
        let ask = |number, arguments| run(&filter, ARCHITECTURE, number, arguments);
        for n in 0..300u32 {
            assert_eq!(ask(2 * n, [9; 6]), (ALLOW, false), "{n}: nothing is said of it");
            let number = 2 * n + 1;
            match n % 3 {
                0 => assert_eq!(ask(number, [0; 6]), (EPERM, false)),
                1 => {
                    assert_eq!(ask(number, [0; 6]), (ALLOW, true));
                    assert_eq!(ask(number, [0, 0, 0o4644, 0, 0, 0]).0, EPERM);
                    assert_eq!(ask(number, [0, 0, 0o2000, 0, 0, 0]).0, EPERM);
                    assert_eq!(ask(number, [0, 0, 0o1777, 0x6000, 0, 0]).0, ALLOW);
                    assert_eq!(ask(number, [0, 0, 0, 0x21ff, 0, 0]).0, EPERM);
                }
                _ => {
                    assert_eq!(ask(number, [1, n, 0, 0, 0, 0]).0, ALLOW);
                    assert_eq!(ask(number, [2, n + 1, 0, 0, 0, 0]).0, ALLOW);
                    assert_eq!(ask(number, [2, n, 0, 0, 0, 0]).0, EPERM);
                    assert_eq!(ask(number, [3, n, 0, 0, 0, 0]).0, EPERM);
                }
            }
        }
        assert_eq!(run(&filter, 0x4000_0003, 2, [0; 6]).0, libc::SECCOMP_RET_KILL_PROCESS);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(ask(X32 | 2, [0; 6]).0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    }

    #[test]
    fn what_cannot_be_expressed_is_an_error() {
        let refused = |when| BTreeMap::from([(1, Refusal { errno: libc::EPERM, when })]);
        assert!(compile(&refused(vec![vec![Test::Equal(6, 0)]])).is_err());
        assert!(compile(&refused(vec![vec![Test::Equal(0, 0); 200]])).is_err());
    }

    /// Judges a call by the filter that bottles have.
    pub(in crate::bottle::linux) fn judged(filter: &Filter, number: libc::c_long, arguments: [u32; 6]) -> (u32, bool) {
        run(filter, ARCHITECTURE, u32::try_from(number).unwrap(), arguments)
    }
}
