//! The way into the dirty NIFs by a normal scheduler: those that are tried there first, and, where the VM
//! needs it, all, to have their arguments copied.
//!
//! An argument can be a literal, a term outside of all heaps: what `:persistent_term` holds, or a
//! constant of a module. Before the VM frees literals, it has every process copy those to which it
//! refers. The VM of OTP 25 does not look at the arguments that a process takes along to a dirty
//! scheduler: the NIF would work with terms, and with a balancer, that are freed already, and so
//! would a later garbage collection of the process. Copies on the heap of the process are safe.
//!
//! A copy can be far larger than what it is of, so each is measured first. A list, which may be long,
//! is copied element by element, and in several turns of the process; where it waits for the next one,
//! the VM looks at what it takes along, as at the arguments of any function.

use std::ffi::{c_int, CStr};
use std::slice;

use rustler::sys::{enif_make_copy, enif_schedule_nif, ErlNifEnv, ErlNifTerm};
use rustler::{Encoder, Env, Term};

use super::extent::{Bytes, Extent};
use super::nif::{self, raise, run, Nif};
use super::scheduler::{consume_timeslice, system_info};
use crate::error::ArgumentError;

/// The first release of OTP that was seen to do without: what crashes 25 in a second does not harm
/// this one. 26 was not tried.
const SAFE_SINCE: u32 = 27;

/// Whether the VM is one that needs copies. `None` when it does not say which it is.
pub(super) fn copies_arguments() -> Option<bool> {
    // SAFETY: it is a C string that lives as long as the VM.
    let release = unsafe { CStr::from_ptr(system_info().otp_release) };
    let release: u32 = release.to_str().ok()?.parse().ok()?;
    Some(release < SAFE_SINCE)
}

/// The words that an argument may take, or an element of one that is a list: an id and a value fit in.
const ONE: usize = (1 << 22) + (1 << 10);

/// The words that all arguments may take.
const ALL: usize = 1 << 27;

/// The words that are copied in one turn, or one element more: some 100 microseconds.
const TURN: usize = 1 << 12;

/// What it takes beside to copy a term, in words that could be copied meanwhile.
const CALL: usize = 4;

/// Goes on to a dirty NIF with copies of its arguments.
///
/// # Safety
///
/// To be called by the VM alone, with as many arguments as the NIF has.
pub(super) unsafe extern "C" fn enter<N: Nif<ARITY>, const ARITY: usize>(
    env: *mut ErlNifEnv,
    _argc: c_int,
    argv: *const ErlNifTerm,
) -> ErlNifTerm {
    let lifetime = ();
    // SAFETY: `env` is that of the call that is under way, and this one its only name.
    let env = unsafe { Env::new(&lifetime, env) };
    // SAFETY: the VM passes so many, each of which belongs to the environment of the call.
    let arguments = unsafe { terms::<ARITY>(env, argv) };
    if let Some(Err(error)) = arguments.first().map(|first| N::expects(*first)) {
        return raise(env, &error);
    }
    if let Some(answer) = nif::attempt::<N, ARITY>(env, arguments) {
        return answer;
    }
    let copying = Copying {
        arguments,
        done: 0,
        left: ALL,
        list: None,
    };
    copying.go_on::<N>(env)
}

/// Tries a dirty NIF on a normal scheduler, and goes on to it with the same arguments where it is not done
/// there.
///
/// # Safety
///
/// As for [`enter`].
pub(super) unsafe extern "C" fn attempt<N: Nif<ARITY>, const ARITY: usize>(
    env: *mut ErlNifEnv,
    _argc: c_int,
    argv: *const ErlNifTerm,
) -> ErlNifTerm {
    let lifetime = ();
    // SAFETY: `env` is that of the call that is under way, and this one its only name.
    let env = unsafe { Env::new(&lifetime, env) };
    // SAFETY: the VM passes so many, each of which belongs to the environment of the call.
    let arguments = unsafe { terms::<ARITY>(env, argv) };
    let done = nif::attempt::<N, ARITY>(env, arguments);
    done.unwrap_or_else(|| schedule::<N, ARITY>(env, arguments))
}

/// Has the VM go on with a NIF on the scheduler that it is for.
fn schedule<N: Nif<ARITY>, const ARITY: usize>(env: Env, arguments: [Term; ARITY]) -> ErlNifTerm {
    let flags = N::SCHEDULER.flags() as c_int;
    let arguments = arguments.map(|argument| argument.as_c_arg());
    // SAFETY: the name is a C string, the arguments belong to `env`, and there are as many as the NIF
    // takes.
    unsafe {
        let (name, argc, argv) = (N::NAME.as_ptr(), ARITY as c_int, arguments.as_ptr());
        enif_schedule_nif(env.as_c_arg(), name, flags, run::<N, ARITY>, argc, argv)
    }
}

/// Goes on with copying, in another turn.
///
/// # Safety
///
/// To be called by the VM alone, with what `Copying::suspend` has put down.
unsafe extern "C" fn enter_again<N: Nif<ARITY>, const ARITY: usize>(
    env: *mut ErlNifEnv,
    _argc: c_int,
    argv: *const ErlNifTerm,
) -> ErlNifTerm {
    let lifetime = ();
    // SAFETY: `env` is that of the call that is under way, and this one its only name.
    let env = unsafe { Env::new(&lifetime, env) };
    // SAFETY: `suspend` put down so many, which the VM has taken along.
    let arguments = unsafe { terms::<ARITY>(env, argv) };
    // SAFETY: as above, and five more.
    let put_down = unsafe { argv.add(ARITY) };
    // SAFETY: as above.
    let [done, left, back, rest, into] = unsafe { terms::<5>(env, put_down) };
    let copying = Copying {
        arguments,
        done: done.decode().expect("it was put down"),
        left: left.decode().expect("it was put down"),
        list: Some(List {
            back: back.decode().expect("it was put down"),
            rest,
            into,
        }),
    };
    copying.go_on::<N>(env)
}

/// Terms that the VM passes.
///
/// # Safety
///
/// There must be as many, and all of this environment.
unsafe fn terms<'a, const N: usize>(env: Env<'a>, argv: *const ErlNifTerm) -> [Term<'a>; N] {
    // SAFETY: the caller says so.
    let passed = unsafe { slice::from_raw_parts(argv, N) };
    // SAFETY: as above.
    std::array::from_fn(|index| unsafe { Term::new(env, passed[index]) })
}

/// The copying of the arguments of a NIF: how far it has come.
struct Copying<'a, const ARITY: usize> {
    arguments: [Term<'a>; ARITY],
    /// How many of them are copies.
    done: usize,
    /// The words that the rest may take.
    left: usize,
    /// The one that is being copied, if it is a list.
    list: Option<List<'a>>,
}

/// A list that is being copied. There, the elements are copied, and the copies are in the wrong order;
/// back, the copies are brought in order.
struct List<'a> {
    back: bool,
    rest: Term<'a>,
    into: Term<'a>,
}

impl<'a, const ARITY: usize> Copying<'a, ARITY> {
    /// Copies what a turn allows, and has the VM go on: with the NIF, or with the rest.
    fn go_on<N: Nif<ARITY>>(mut self, env: Env<'a>) -> ErlNifTerm {
        let mut turn = TURN;
        while self.done < ARITY {
            let argument = self.arguments[self.done];
            let step = match self.list.take() {
                Some(list) => self.step(env, list, &mut turn),
                None if argument.is_list() => {
                    self.list = Some(List {
                        back: false,
                        rest: argument,
                        into: Term::list_new_empty(env),
                    });
                    Ok(())
                }
                None => self
                    .copy(env, argument, &mut turn)
                    .map(|copy| self.put(copy)),
            };
            if step.is_err() {
                return self.refuse(env);
            }
            if turn == 0 && self.list.is_some() {
                return self.suspend::<N>(env);
            }
        }
        schedule::<N, ARITY>(env, self.arguments)
    }

    /// One element of a list, or its end.
    fn step(&mut self, env: Env<'a>, list: List<'a>, turn: &mut usize) -> Result<(), TooLarge> {
        let List { back, rest, into } = list;
        match (rest.list_get_cell(), back) {
            (Ok((head, rest)), false) => {
                let into = into.list_prepend(self.copy(env, head, turn)?);
                self.list = Some(List { back, rest, into });
            }
            // What an improper list ends with is no list.
            (Err(_), false) => {
                let end = self.copy(env, rest, turn)?;
                self.list = Some(List {
                    back: true,
                    rest: into,
                    into: end,
                });
            }
            (Ok((head, rest)), true) => {
                let into = into.list_prepend(head);
                *turn = turn.saturating_sub(1);
                self.list = Some(List { back, rest, into });
            }
            (Err(_), true) => self.put(into),
        }
        Ok(())
    }

    /// The copy of the next argument is made.
    fn put(&mut self, copy: Term<'a>) {
        self.arguments[self.done] = copy;
        self.done += 1;
    }

    /// Copies a term to the heap of the process, if it is not too large.
    fn copy(
        &mut self,
        env: Env<'a>,
        term: Term<'a>,
        turn: &mut usize,
    ) -> Result<Term<'a>, TooLarge> {
        let allowed = self.left.min(ONE);
        let mut extent = Extent::new(allowed, Bytes::Copied);
        if !extent.take(term) {
            return Err(TooLarge);
        }
        // To be called is work, too, also for an atom.
        let words = extent.taken() + CALL;
        self.left = self.left.saturating_sub(words);
        *turn = turn.saturating_sub(words);
        // SAFETY: the term belongs to the environment of the call that is under way.
        let copy = unsafe { enif_make_copy(env.as_c_arg(), term.as_c_arg()) };
        // SAFETY: it was made in this environment.
        Ok(unsafe { Term::new(env, copy) })
    }

    #[cold]
    fn refuse(&self, env: Env) -> ErlNifTerm {
        let which = self.done + 1;
        let message = format!(
            "argument {which} is too large for a copy, in which nothing is shared any more: it may \
             take {ONE} words, and a list {ALL}"
        );
        raise(env, &ArgumentError(message))
    }

    /// Has the VM call again, in another turn of the process.
    fn suspend<N: Nif<ARITY>>(self, env: Env<'a>) -> ErlNifTerm {
        let List { back, rest, into } = self.list.expect("it is in the middle of a list");
        let (done, left, back) = (
            self.done.encode(env),
            self.left.encode(env),
            back.encode(env),
        );
        let put_down = [done, left, back, rest, into];
        let arguments = self.arguments.iter().chain(&put_down);
        let arguments: Vec<ErlNifTerm> = arguments.map(|term| term.as_c_arg()).collect();
        consume_timeslice(env, 100);
        let (argc, argv) = (arguments.len() as c_int, arguments.as_ptr());
        // SAFETY: the name is a C string, and the arguments belong to `env`.
        unsafe {
            let name = N::NAME.as_ptr();
            enif_schedule_nif(env.as_c_arg(), name, 0, enter_again::<N, ARITY>, argc, argv)
        }
    }
}

/// A term takes more words than it may.
struct TooLarge;
