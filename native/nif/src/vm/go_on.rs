//! The way from a NIF on a normal scheduler to one on another, in the middle of a call.

use std::ffi::c_int;

use rustler::sys::enif_schedule_nif;
use rustler::{Env, Term};

use super::dirty::copies_arguments;
use super::function::Function;
use super::nif::{Run, Scheduler};
use super::object::Object;
use super::resource::{Handle, Resource};
use super::term::Word;

/// Has the VM go on with a NIF whose first argument is the object, on the kind of scheduler that it is
/// for. To be returned by the NIF that is under way: that one's answer will be the answer. The other
/// arguments must be made by it, since those that it was given can be literals, see `dirty`.
///
/// Those of a NIF on a normal scheduler need not.
#[cold]
#[inline(never)]
pub(crate) fn go_on<'a, T: Resource>(
    env: Env<'a>,
    function: &Function,
    object: &Object<T>,
    others: &[Term<'a>],
) -> Word<'a> {
    schedule(
        env,
        function,
        function.scheduler,
        function.run,
        object,
        others,
    )
}

/// As [`go_on`], to a dirty NIF, with arguments that may be literals.
#[cold]
#[inline(never)]
pub(crate) fn go_on_copied<'a, T: Resource>(
    env: Env<'a>,
    function: &Function,
    object: &Object<T>,
    others: &[Term<'a>],
) -> Word<'a> {
    let (scheduler, run) = match copies_arguments() {
        Some(false) => (function.scheduler, function.run),
        _ => (Scheduler::Normal, function.enter),
    };
    schedule(env, function, scheduler, run, object, others)
}

/// Has the VM go on with a NIF, on the kind of scheduler that it is for, with the arguments of the one that is under
/// way. They must have been made by one before it: none is a literal. Where turns follow each other on a dirty
/// scheduler the VM collects no garbage between them, so that none must be made.
#[cold]
#[inline(never)]
pub(crate) fn go_on_again<'a>(
    env: Env<'a>,
    function: &Function,
    arguments: &[Term<'a>],
) -> Word<'a> {
    schedule_with(env, function, function.scheduler, function.run, arguments)
}

fn schedule<'a, T: Resource>(
    env: Env<'a>,
    function: &Function,
    scheduler: Scheduler,
    run: Run,
    object: &Object<T>,
    others: &[Term<'a>],
) -> Word<'a> {
    let object = Handle::keep(object).to_term(env);
    let arguments: Vec<Term> = [object].iter().chain(others).copied().collect();
    schedule_with(env, function, scheduler, run, &arguments)
}

fn schedule_with<'a>(
    env: Env<'a>,
    function: &Function,
    scheduler: Scheduler,
    run: Run,
    arguments: &[Term<'a>],
) -> Word<'a> {
    let arguments: Vec<_> = arguments.iter().map(|term| term.as_c_arg()).collect();
    let count = arguments.len();
    assert_eq!(function.arity as usize, count, "it takes so many");
    let flags = scheduler.flags() as c_int;
    // SAFETY: the name is a C string; the arguments are so many, and belong to `env`, which is that of
    // the call that is under way.
    let scheduled = unsafe {
        let name = function.name.as_ptr();
        enif_schedule_nif(
            env.as_c_arg(),
            name,
            flags,
            run,
            count as c_int,
            arguments.as_ptr(),
        )
    };
    // SAFETY: what stands for the answer belongs to the environment of the call.
    unsafe { Term::new(env, scheduled) }.into()
}
