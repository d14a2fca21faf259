/**
 * A party's process: listens, brings the links of a session together by the client's ticket, agrees on the session, runs it. Evaluators wait for a
 * client's hello (and P0 for P1's join) and join the helper; the helper waits for both.
 */
import { randomBytes } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { bytesToHex } from '@noble/hashes/utils.js';
import { expectControl, type Link } from '../client/link.ts';
import type { Artefact } from '../protocols/artefact.ts';
import { CachetError } from '../protocols/errors.ts';
import {
  evaluatorKeys,
  KeyExchange,
  requireSameSpec,
  sessionId,
  storedKeys,
  type Control,
  type DealOffer,
  type Hello,
  type Join,
} from '../protocols/handshake.ts';
import { policyDifference, type Policy } from '../protocols/policy.ts';
import { requireRole } from '../protocols/secret.ts';
import { checkSpec, specOfUnit, type SessionSpec } from '../protocols/session.ts';
import { openBulk, type BulkThread } from './bulk/thread.ts';
import { collectSoon } from './collect.ts';
import { addressOf, type Config, type PartyRole } from './config.ts';
import { agreeAsDealer, type Joined } from './dealing.ts';
import { engineSpace, type EngineSpace } from './engine.ts';
import { EvaluatorSession } from './evaluatorSession.ts';
import { HelperSession } from './helperSession.ts';
import { Ledger } from './ledger.ts';
import type { PartyEvent, Peer } from './log.ts';
import { connect, lineOf, listen, type Line, type Listener } from './sockets.ts';
import { PartyStore, type ClaimedUnit } from './store/partyStore.ts';
import { StoredDealer } from './store/storedDealer.ts';
import { median, peakResident } from './terminal.ts';
import type { TraceFile } from './trace/file.ts';
import type { TraceRows } from './trace/recorder.ts';

type Greeting = { readonly link: Link; readonly message: Hello | Join | DealOffer };

/** Links of one ticket that have come in so far. */
interface Meeting {
  readonly ticket: string;
  readonly greetings: Map<string, Greeting>;
  readonly timer: NodeJS.Timeout;
  /** Why the first of its links ended. */
  ended?: CachetError;
  /** Of the store, for this session. */
  unit?: ClaimedUnit;
}

/** Tickets of refused sessions that are remembered. */
const MAX_REFUSALS = 1000;

export class Party {
  private readonly role: PartyRole;
  private readonly config: Config;
  private readonly artefact: Artefact;
  private readonly onEvent: (event: PartyEvent) => void;
  private readonly trace: TraceFile | undefined;
  private readonly policy: Policy | undefined;
  private readonly meetings = new Map<string, Meeting>();
  /** The latest, by ticket: links that come late hear the same, and a session's refusal is logged once. */
  private readonly refusals = new Map<string, CachetError>();
  private readonly active = new Set<{ abort(error: CachetError): void }>();
  private readonly closing = new AbortController();
  private readonly line: Line;
  private listener: Listener | undefined;
  private bulk: BulkThread | undefined;
  private readonly ledger: Ledger;
  private readonly store: PartyStore | undefined;
  /** Sessions being set up or running, and what their engines reserve. */
  private sessions = 0;
  private reserved = 0;

  /** `policy`: the only one that sessions may have. @default any that the model can follow */
  constructor(o: {
    role: PartyRole;
    config: Config;
    artefact: Artefact;
    onEvent: (event: PartyEvent) => void;
    trace?: TraceFile | undefined;
    policy?: Policy | undefined;
  }) {
    this.role = o.role;
    this.config = o.config;
    this.line = lineOf(o.config);
    this.ledger = new Ledger(o.config.ledger);
    if (o.config.store !== undefined && o.role !== 'helper') {
      const { store: dir, storeKey: key, ledger: ledgerPath } = o.config;
      this.store = new PartyStore({ dir, role: o.role, artefact: o.artefact.digest, ledger: this.ledger, ledgerPath, key });
      this.store.tidy();
    }
    this.onEvent = o.onEvent;
    this.trace = o.trace;
    this.policy = o.policy;
    // Every session waits on it.
    setMaxListeners(0, this.closing.signal);
    requireRole(o.artefact.header, o.role);
    this.artefact = o.artefact;
  }

  async start(): Promise<void> {
    if (this.role === 'helper') this.bulk = await openBulk(this.config.backend, (event) => this.onEvent(event));
    const { hostname, port } = new URL(`http://${this.config.listen ?? addressOf(this.config, this.role).slice('ws://'.length)}`);
    this.listener = await listen(hostname.replace(/^\[|\]$/g, ''), Number(port), (link) => void this.greet(link), this.line);
    this.onEvent({ event: 'listening', url: `ws://${hostname}:${this.listener.port}` });
  }

  /** Ends all sessions and stops listening. */
  async close(): Promise<void> {
    this.closing.abort();
    for (const session of this.active) session.abort(new CachetError({ code: 'aborted', party: this.role, what: 'party stopped' }));
    await this.listener?.close();
    await this.bulk?.close();
    this.ledger.close();
  }

  /** Who must have come before a session is set up. */
  private awaited(meeting?: Meeting): readonly string[] {
    const roles = { p0: ['client', 'p1'], p1: ['client'], helper: ['p0', 'p1'] }[this.role],
      client = meeting?.greetings.get('client')?.message as Hello | undefined;
    return client?.spec.dealer === 'client' ? [...roles, 'dealer'] : roles;
  }

  private async greet(link: Link): Promise<void> {
    let key: string | undefined;
    try {
      const message = await this.firstMessage(link);
      link.peer = message.role;
      key = bytesToHex(message.ticket);
      const welcome = this.role === 'helper' ? this.awaited() : [...this.awaited(), 'dealer'];
      if (!welcome.includes(message.role))
        throw new CachetError({
          code: 'handshake',
          party: this.role,
          what: 'unexpected party',
          expected: welcome.join(' or '),
          got: message.role,
          hint: 'check the addresses in the configuration',
        });
      if (message.type !== 'deal' && message.spec.artefact !== this.artefact.digest)
        throw new CachetError({
          code: 'handshake',
          party: this.role,
          what: 'another model',
          expected: `artefact ${this.artefact.digest.slice(0, 16)}`,
          got: message.spec.artefact.slice(0, 16),
          hint: 'give all parties and the client the same model',
        });
      if (message.type !== 'deal') this.checkSession(message.spec);
      const meeting = this.meeting(key);
      if (meeting.greetings.has(message.role))
        throw new CachetError({ code: 'handshake', party: this.role, what: `second ${message.role} for one ticket`, expected: 'one', got: 'two' });
      meeting.greetings.set(message.role, { link, message });
      link.onEnd = (e) => {
        meeting.ended ??= e;
        this.fail(key!, e);
      };
      if (this.awaited(meeting).every((role) => meeting.greetings.has(role))) {
        this.meetings.delete(key);
        clearTimeout(meeting.timer);
        await this.setUp(meeting);
      }
    } catch (error) {
      link.fail(error as CachetError);
      if (key === undefined) this.onEvent({ event: 'refused', error: error as Error });
      else this.fail(key, error as CachetError);
    }
  }

  /** What runs of a session: over a stored unit, one of the unit's lengths. */
  private running(spec: SessionSpec): SessionSpec {
    return spec.dealer === 'store' ? specOfUnit(spec, this.storeOf().terms) : spec;
  }

  private storeOf(): PartyStore {
    if (this.store) return this.store;
    throw new CachetError({
      code: 'store',
      party: this.role,
      what: 'no store',
      expected: 'a party with a store',
      got: 'none',
      hint: '"store" in its configuration, or --store DIR; or another --helper',
    });
  }

  private checkSession(spec: SessionSpec): void {
    checkSpec(this.artefact, spec);
    const other = this.policy && policyDifference(this.policy, spec.policy);
    if (other)
      throw new CachetError({
        code: 'handshake',
        party: this.role,
        what: `another cache policy than this party runs, field ${other.field}`,
        expected: other.expected,
        got: other.got,
        hint: `--policy ${this.policy!.name}, or the file that the parties were given`,
      });
    if (spec.dealer === 'store') {
      this.running(spec);
      this.storeOf().next();
    }
    if (spec.filled > 0 && !this.config.benchmark)
      throw new CachetError({
        code: 'policy',
        party: this.role,
        what: 'session over a filled cache',
        expected: 'tokens in every slot',
        got: `${spec.filled} random ones`,
        hint: '"benchmark": true, or --benchmark, at a party that is only measured',
      });
  }

  private firstMessage(link: Link): Promise<Hello | Join | DealOffer> {
    return expectControl(link, ['hello', 'join', 'deal'], this.config.timeoutMs, this.closing.signal);
  }

  private meeting(key: string): Meeting {
    const known = this.meetings.get(key);
    if (known) return known;
    const refused = this.refusals.get(key);
    if (refused) throw refused;
    if (this.ledger.has(key)) this.ledger.use(key, this.role);
    if (this.sessions + this.meetings.size >= this.config.maxSessions)
      throw new CachetError({
        code: 'limit',
        party: this.role,
        what: 'too many sessions',
        expected: `at most ${this.config.maxSessions} at a time`,
        got: 'one more',
        hint: 'again later, or raise maxSessions in the configuration',
      });
    const timer = setTimeout(() => {
      const missing = this.awaited(this.meetings.get(key)).filter((role) => !this.meetings.get(key)?.greetings.has(role));
      this.fail(
        key,
        new CachetError({
          code: 'timeout',
          party: this.role,
          what: `no connection from ${missing.join(' and ')}`,
          expected: `one within ${this.config.timeoutMs / 1000} s`,
          got: 'nothing',
          hint: 'check that all parties are running',
        }),
      );
    }, this.config.timeoutMs);
    const meeting: Meeting = { ticket: key, greetings: new Map(), timer };
    this.meetings.set(key, meeting);
    return meeting;
  }

  /** Before a session runs. */
  private fail(key: string, error: CachetError): void {
    const meeting = this.meetings.get(key);
    this.meetings.delete(key);
    clearTimeout(meeting?.timer);
    for (const { link } of meeting?.greetings.values() ?? []) link.fail(error);
    if (this.refusals.has(key)) return;
    this.refusals.set(key, error);
    if (this.refusals.size > MAX_REFUSALS) this.refusals.delete(this.refusals.keys().next().value!);
    this.onEvent({ event: 'refused', error });
  }

  /** All awaited links are there: exchange nonces and keys, then run. */
  private async setUp(meeting: Meeting): Promise<void> {
    const links = new Set([...meeting.greetings.values()].map((g) => g.link));
    const [spec, ...others] = [...meeting.greetings.values()].flatMap(({ message }) => ('spec' in message ? [message.spec] : [])),
      { aheadMib, benchmark, threads } = this.config,
      space = engineSpace(this.role === 'helper' ? 'helper' : 'evaluator', this.artefact, this.running(spec!), aheadMib, {
        whole: benchmark,
        threads,
        bulk: this.bulk !== undefined,
      });
    this.sessions++;
    this.reserved += space.total;
    try {
      for (const other of others) requireSameSpec(spec!, other);
      this.checkMemory(space.total);
      this.ledger.use(meeting.ticket, this.role);
      await (this.role === 'helper' ? this.setUpHelper(meeting, space) : this.setUpEvaluator(this.role, meeting, links, space));
    } catch (error) {
      this.sessions--;
      this.reserved -= space.total;
      await meeting.unit?.reader.close();
      for (const link of links) link.fail(error as CachetError);
      throw error;
    }
  }

  private checkMemory(bytes: number): void {
    const mib = (n: number): number => Math.ceil(n / 2 ** 20),
      free = this.config.memoryMib - mib(this.reserved - bytes);
    if (mib(bytes) <= free) return;
    throw new CachetError({
      code: 'limit',
      party: this.role,
      what: 'not enough memory for one more session',
      expected: `${free} MiB at most`,
      got: `${mib(bytes)} MiB for a session of this length`,
      hint: 'again later, a shorter prompt, or raise memoryMib in the configuration',
    });
  }

  private async setUpEvaluator(role: 'p0' | 'p1', meeting: Meeting, links: Set<Link>, space: EngineSpace): Promise<void> {
    const { timeoutMs } = this.config,
      { signal } = this.closing,
      client = meeting.greetings.get('client') as { link: Link; message: Hello },
      { ticket, spec } = client.message;
    const nonce = new Uint8Array(randomBytes(32)),
      withPeer = new KeyExchange(),
      withHelper = new KeyExchange();
    const store = spec.dealer === 'store' ? this.storeOf() : undefined;
    const join = (publicKey: Uint8Array): Join => ({
      type: 'join',
      role,
      ticket,
      clientNonce: client.message.nonce,
      nonce,
      publicKey,
      spec,
      ...(store ? { unit: { store: store.id, next: store.next() } } : {}),
    });
    const meet = async (to: 'p0' | 'helper', exchange: KeyExchange): Promise<{ link: Link; welcome: Extract<Control, { type: 'welcome' }> }> => {
      const link =
        to === 'helper' && spec.dealer === 'client'
          ? meeting.greetings.get('dealer')!.link
          : await connect(addressOf(this.config, to), to, timeoutMs, signal, this.line);
      links.add(link);
      const welcome = expectControl(link, 'welcome', timeoutMs, signal);
      link.control(join(exchange.publicKey));
      return { link, welcome: await welcome };
    };
    let peer: { link: Link; nonce: Uint8Array; publicKey: Uint8Array };
    const helperMet = store ? undefined : meet('helper', withHelper);
    if (role === 'p0') {
      const { link, message } = meeting.greetings.get('p1') as { link: Link; message: Join };
      if (bytesToHex(message.clientNonce) !== bytesToHex(client.message.nonce))
        throw new CachetError({ code: 'handshake', party: role, what: 'parties met different clients', expected: 'one nonce', got: 'two' });
      if (store) meeting.unit = await store.claim(store.next(requireSameStore(store, message)));
      link.control({
        type: 'welcome',
        role: 'p0',
        nonce,
        publicKey: withPeer.publicKey,
        ...(meeting.unit ? { unit: { index: meeting.unit.index, id: meeting.unit.id } } : {}),
      });
      peer = { link, ...message };
    } else {
      const p0 = meet('p0', withPeer);
      p0.catch(() => undefined);
      await helperMet;
      const { link, welcome } = await p0;
      peer = { link, ...welcome };
      if (store) meeting.unit = await claimSame(store, welcome);
    }
    const helper = await helperMet,
      { unit } = meeting;
    const nonces = role === 'p0' ? { p0: nonce, p1: peer.nonce } : { p0: peer.nonce, p1: nonce };
    const session = sessionId(spec, ticket, { client: client.message.nonce, ...nonces, helper: unit?.id ?? helper!.welcome.nonce }),
      party = role === 'p0' ? 0 : 1;
    const peerKeys = withPeer.derive(peer.publicKey, session),
      keys = unit ? storedKeys(unit.id, unit.keys, peerKeys) : evaluatorKeys(party, session, withHelper.derive(helper!.welcome.publicKey, session), peerKeys),
      run = this.running(spec);
    for (const link of links)
      if (!link.open) throw meeting.ended ?? new CachetError({ code: 'link', party: role, what: `${link.peer} left while the session was set up` });
    client.link.control({ type: 'ready', session, ...(unit ? { promptRows: run.promptTokens } : {}) });
    for (const link of links) link.bind(session);
    this.run(
      session,
      spec,
      space,
      [...links],
      (onEnd) =>
        new EvaluatorSession({
          party,
          artefact: this.artefact,
          spec: run,
          kernels: this.config.kernels,
          space,
          keys,
          links: { client: client.link, peer: peer.link, helper: unit ? new StoredDealer(unit.reader) : helper!.link },
          clientTimeoutMs: this.config.clientTimeoutMs,
          progressMs: this.config.progressMs,
          onTrace: this.traced(session, spec),
          alone: () => this.sessions === 1,
          onEnd,
        }),
      unit?.index,
    );
  }

  private async setUpHelper(meeting: Meeting, space: EngineSpace): Promise<void> {
    const [p0, p1] = (['p0', 'p1'] as const).map((role) => meeting.greetings.get(role) as Joined),
      { session, spec, keys } = agreeAsDealer('helper', p0!, p1!),
      links = [p0!.link, p1!.link] as const;
    this.run(
      session,
      spec,
      space,
      links,
      (onEnd) =>
        new HelperSession({
          artefact: this.artefact,
          spec,
          kernels: this.config.kernels,
          bulk: this.bulk,
          space,
          keys,
          links,
          onTrace: this.traced(session, spec),
          onEnd,
        }),
    );
  }

  private run(
    session: Uint8Array,
    spec: SessionSpec,
    space: EngineSpace,
    links: readonly Link[],
    begin: (onEnd: (error: CachetError | undefined) => void) => { abort(error: CachetError): void; readonly stepMs?: readonly number[] },
    unit?: number,
  ): void {
    const id = shortId(session),
      started = performance.now(),
      cpu = process.cpuUsage();
    this.onEvent({
      event: 'session',
      session: id,
      promptTokens: spec.promptTokens,
      maxTokens: spec.maxTokens,
      policy: spec.policy.name,
      ...(unit === undefined ? {} : { unit }),
    });
    const running = begin((error) => {
      this.active.delete(running);
      this.sessions--;
      this.reserved -= space.total;
      if (this.sessions === 0) collectSoon();
      this.onEvent({
        event: 'end',
        session: id,
        seconds: (performance.now() - started) / 1e3,
        traffic: links.map(trafficOf),
        memory: peakResident(),
        cpuMs: cpuSince(cpu),
        ...(running.stepMs?.length ? { stepMs: median(running.stepMs) } : {}),
        ...(error ? { error } : {}),
      });
    });
    this.active.add(running);
  }

  private traced(session: Uint8Array, spec: SessionSpec): ((rows: TraceRows) => void) | undefined {
    return this.trace?.session({ party: this.role, session: shortId(session), spec }).rows;
  }
}

/** P1's next unit. @throws CachetError 'handshake' if its store is another one. */
function requireSameStore(store: PartyStore, { unit }: Join): number {
  if (unit && bytesToHex(unit.store) === bytesToHex(store.id)) return unit.next;
  throw new CachetError({
    code: 'handshake',
    party: 'p0',
    what: 'evaluators have different stores',
    expected: `store ${bytesToHex(store.id).slice(0, 16)}`,
    got: unit ? bytesToHex(unit.store).slice(0, 16) : 'none',
    hint: 'give both evaluators their parts of one store',
  });
}

/** P1's half of the unit that P0 uses. @throws CachetError 'handshake' if it is of another one. */
async function claimSame(store: PartyStore, { unit }: Extract<Control, { type: 'welcome' }>): Promise<ClaimedUnit> {
  if (!unit) throw new CachetError({ code: 'handshake', party: 'p1', what: 'no unit from p0', expected: 'one of its store', got: 'none' });
  const claimed = await store.claim(unit.index);
  if (bytesToHex(claimed.id) === bytesToHex(unit.id)) return claimed;
  await claimed.reader.close();
  throw new CachetError({
    code: 'handshake',
    party: 'p1',
    what: `evaluators have different units ${unit.index}`,
    expected: 'halves of one unit',
    got: 'halves of two',
    hint: 'give both evaluators their parts of one store',
  });
}

/** Processor time of this process since then, ms. */
function cpuSince(before: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e3;
}

const shortId = (session: Uint8Array): string => bytesToHex(session.subarray(0, 8));

const trafficOf = ({ peer, counted: { round, dealt, other } }: Link) => ({
  peer: peer as Peer,
  sent: round.sent + dealt.sent + other.sent,
  received: round.received + dealt.received + other.received,
});
