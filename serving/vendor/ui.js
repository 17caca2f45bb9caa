export { render, h, Fragment, createRef } from 'preact';
export { useEffect, useLayoutEffect, useRef, useState, useMemo, useCallback } from 'preact/hooks';
export { signal, computed, effect, batch, useSignal, useComputed } from '@preact/signals';
import { h } from 'preact';
import htm from 'htm';
export const html = htm.bind(h);
