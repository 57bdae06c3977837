//! NIFs as the VM is told of them.

use std::ffi::CStr;

use rustler::sys::ErlNifFunc;

use super::dirty::{attempt, enter};
use super::nif::{run, Nif, Run, Scheduler};

/// A NIF as the VM is told of it: when the library is loaded, or by another that goes on with it.
pub(crate) struct Function {
    pub(super) name: &'static CStr,
    pub(super) arity: u32,
    pub(super) scheduler: Scheduler,
    pub(super) run: Run,
    /// Whether it is tried on a normal scheduler first.
    pub(super) attempts: bool,
    attempt: Run,
    pub(super) enter: Run,
}

/// A NIF whose body is an expression.
macro_rules! nif {
    (
        $scheduler:ident, $name:ident, $arity:expr,
        $(expects: $expects:expr,)?
        $(attempt: |$attempt_env:ident, $attempt_arguments:pat_param| $attempt:expr,)?
        |$env:ident, $arguments:pat_param| $body:expr
    ) => {{
        struct Body;

        impl $crate::vm::nif::Nif<{ $arity }> for Body {
            const NAME: &'static std::ffi::CStr = match std::ffi::CStr::from_bytes_with_nul(
                concat!(stringify!($name), "\0").as_bytes(),
            ) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            };
            const SCHEDULER: $crate::vm::nif::Scheduler = $crate::vm::nif::Scheduler::$scheduler;

            $(
                fn expects(first: rustler::Term) -> Result<(), $crate::error::ArgumentError> {
                    $expects(first)
                }
            )?

            $(
                const ATTEMPTS: bool = true;

                fn attempt<'a>(
                    $attempt_env: rustler::Env<'a>,
                    $attempt_arguments: [$crate::vm::term::Word<'a>; $arity],
                ) -> Option<$crate::vm::nif::Answer<'a>> {
                    $attempt
                }
            )?

            #[inline]
            fn call<'a>(
                $env: rustler::Env<'a>,
                $arguments: [$crate::vm::term::Word<'a>; $arity],
            ) -> $crate::vm::nif::Answer<'a> {
                $body
            }
        }

        $crate::vm::function::Function::of::<Body, { $arity }>()
    }};
}
pub(crate) use nif;

impl Function {
    pub(crate) const fn of<N: Nif<ARITY>, const ARITY: usize>() -> Self {
        Function {
            name: N::NAME,
            arity: ARITY as u32,
            scheduler: N::SCHEDULER,
            run: run::<N, ARITY>,
            attempts: N::ATTEMPTS,
            attempt: attempt::<N, ARITY>,
            enter: enter::<N, ARITY>,
        }
    }

    /// The NIF itself.
    pub(super) fn itself(&self) -> ErlNifFunc {
        self.described(self.scheduler, self.run)
    }

    /// The way into a dirty NIF by a normal scheduler.
    pub(super) fn entrance(&self) -> ErlNifFunc {
        self.described(Scheduler::Normal, self.enter)
    }

    /// It on a normal scheduler, and then on the one that it is for.
    pub(super) fn attempt(&self) -> ErlNifFunc {
        self.described(Scheduler::Normal, self.attempt)
    }

    fn described(&self, scheduler: Scheduler, function: Run) -> ErlNifFunc {
        ErlNifFunc {
            name: self.name.as_ptr(),
            arity: self.arity,
            function,
            flags: scheduler.flags(),
        }
    }
}
