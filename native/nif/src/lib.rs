//! The NIF library behind `GrpcLb.Native`: decodes terms, calls `grpc_lb_core`, encodes what
//! comes back. Nothing in here decides.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `vm` | the border to the VM, and all `unsafe` |
//! | `balancer` | the balancer as a reference |
//! | `ticket`, `waiter`, `page` | the ticket, a place in line and a page of interned values as references |
//! | `slots` | the calls in flight of one process, and the NIFs that begin and end them there |
//! | `value` | a term that is kept as an id or a value |
//! | `line` | what is told to those who wait for room |
//! | `pick` | the hot NIF |
//! | `call` | the NIFs around each call: checkout, also in turn, first_response and end_call |
//! | `keyed` | pick and checkouts of a call that has a key |
//! | `control` | the NIFs that make and change balancers |
//! | `look` | the NIFs that show them to people |
//! | `registry`, `view` | the balancers that live; a reference to one that does not keep it |
//! | `decode` | policies, settings, backends and reports out of terms |
//! | `alarm` | what wakes the ticker |
//! | `interned` | values that are not copied |
//! | `ticker` | the balancers that real time drives, and who has their work done |
//! | `events` | what balancers have decided, until it is fetched |
//! | `timed` | lists of balancers with work that time drives, and the doing of it |
//! | `clock` | the clocks that are given to the core |
//! | `advance` | the NIFs that move a clock of a test |
//! | `error`, `atoms` | ArgumentError; the atoms |

#![deny(unsafe_code)]

mod advance;
mod alarm;
mod atoms;
mod balancer;
mod call;
mod clock;
mod control;
mod decode;
mod error;
mod events;
mod interned;
mod keyed;
mod line;
mod look;
mod page;
mod pick;
mod registry;
mod slots;
mod ticker;
mod ticket;
mod timed;
mod turns;
mod value;
mod view;
mod vm;
mod waiter;

use crate::balancer::Balancer;
use crate::clock::ClockReference;
use crate::page::Reserved;
use crate::slots::Slots;
use crate::ticket::Ticket;
use crate::view::View;
use crate::waiter::Waiter;

vm::library! {
    module: c"Elixir.GrpcLb.Native",
    types: [Balancer, Ticket, Slots, Waiter, ClockReference, View, Reserved],
    tick: ticker::tick,
    take_over: events::take_over,
    functions: {
        DirtyCpu control::new(policy, backends, settings);
        DirtyCpu control::tick();
        DirtyCpu look::all();
        DirtyCpu look::find(number);
        DirtyCpu look::listed();
        DirtyCpu look::listed_as(number);
        DirtyCpu control::subset(texts, size, seed);
        DirtyCpu events::events();
        DirtyCpu events::events_of_build();
        Normal events::listened_to();
        Normal events::ring_of_build();
        DirtyCpu ticker::listen(listens);
        DirtyCpu ticker::listen_to_build(listens);
        DirtyCpu interned::extents(backends);
        Normal interned::reserve_page(number, words, most);
        Normal interned::retired_pages(at_most);
        Normal interned::retired_pages_of_build(at_most);
        Normal interned::interned_words_of_build();
        Normal interned::forget_page(number);
        Normal interned::forget_page_of_build(number);
        Normal control::live_counts();
        Normal control::library();
        Normal control::manual_clock();
        Normal slots::slots();
        Normal slots::begin_call(balancer, slots);
        Normal keyed::begin_call(balancer, slots, key);
        Normal slots::begin_call_except(balancer, slots, values, key);
    },
    methods: {
        Normal pick::pick(Balancer);
        Normal keyed::pick(Balancer, key);
        Normal call::checkout(Balancer);
        Normal keyed::checkout(Balancer, key);
        Normal call::checkout_except(Balancer, values);
        Normal keyed::checkout_except(Balancer, values, key);
        DirtyCpu call::checkout_except_thoroughly(Balancer, values);
        DirtyCpu keyed::checkout_except_thoroughly(Balancer, values, key);
        Normal call::line_up(Balancer);
        DirtyCpu call::checkout_in_turn(Waiter, values) after call::try_checkout_in_turn;
        DirtyCpu keyed::checkout_in_turn(Waiter, values, key) after keyed::try_checkout_in_turn;
        Normal call::leave_line(Waiter);
        Normal call::first_response(Ticket);
        Normal call::end_call(Ticket, outcome, report, latency);
        Normal slots::end_call(Slots, slot, outcome, report, latency);
        DirtyCpu interned::extents_of_new(Balancer, backends) after interned::try_extents_of_new;
        Normal interned::reserve_page_of(Balancer, number, words, most);
        Normal interned::fill_page(Reserved, answers);
        Normal interned::let_go_of_page(Reserved);
        DirtyCpu control::reconcile(Balancer, backends) after control::try_reconcile;
        Normal control::reconcile_listed(Balancer, backends);
        DirtyCpu control::reconcile_draining(Balancer, backends, leaving);
        DirtyCpu control::add(Balancer, backends);
        DirtyCpu control::remove(Balancer, ids);
        DirtyCpu control::set_state(Balancer, id, state);
        DirtyCpu control::configure(Balancer, changes);
        DirtyCpu control::report(Balancer, id, report);
        DirtyCpu control::successes(Balancer, id);
        DirtyCpu look::info(Balancer | View);
        DirtyCpu look::name(Balancer | View);
        Normal look::summary(Balancer | View);
        DirtyCpu control::close(Balancer);
        DirtyCpu control::close_draining(Balancer);
        DirtyCpu advance::advance(ClockReference, milliseconds);
    },
}
