/** Charts as SVG, for a white and for a dark page. */
import { init, use } from 'echarts/core';
import { BarChart, LineChart, ScatterChart } from 'echarts/charts';
import { GridComponent, LegendComponent, TitleComponent } from 'echarts/components';
import { SVGRenderer } from 'echarts/renderers';

use([BarChart, LineChart, ScatterChart, GridComponent, LegendComponent, TitleComponent, SVGRenderer]);

/** One grey that has a contrast of 4 and more on white and on a dark page; the lines' colours are as far from both. */
const GREY = '#767676';
export const COLOURS = { peer: '#d55e00', all: '#2b83c6', ready: '#009e73' };
export const BACKEND_COLOURS = { wasm: '#2b83c6', onnxruntime: '#009e73', webgpu: '#d55e00' };
export const POLICY_COLOURS = ['#2b83c6', '#009e73', '#a05fb4', '#b8860b', '#c2527a'];

const TEXT = { color: GREY, fontFamily: 'sans-serif', fontSize: 13 },
  AXIS = { nameLocation: 'middle', nameTextStyle: TEXT, axisLabel: TEXT, axisLine: { show: true, lineStyle: { color: GREY } } },
  GRID_LINE = { lineStyle: { color: GREY, opacity: 0.3 } };

const short = (value) => String(Number(value.toPrecision(3)));

/** Half a label's height is left free under the lowest point. */
const floorOf = (values) => Number(`1e${Math.floor(Math.log10(Math.min(...values) / 1.5))}`);

function render(width, height, title, option) {
  const view = init(null, null, { renderer: 'svg', ssr: true, width, height });
  view.setOption({
    animation: false,
    backgroundColor: 'transparent',
    title: { text: title, left: 'center', textStyle: { ...TEXT, fontSize: 15 } },
    ...option,
  });
  const svg = view.renderToSVGString();
  view.dispose();
  return `${svg}\n`;
}

/**
 * An SVG with one line per series over the contexts, on a logarithmic axis; series: `{ name, colour, values, below }`, absent values undefined. Numbers stand at every
 * point (`below` puts them under the line) and names in a legend; with `ends`, for many lines, name and number at a line's end. Contexts without values are left out.
 */
export function chart(title, unit, contexts, series, { axis = 'attended tokens T', ends = false } = {}) {
  const shown = contexts.findLastIndex((_, i) => series.some((s) => s.values[i] !== undefined)) + 1,
    drawn = series.filter(({ values }) => values.some((v) => v !== undefined));
  return render(720, ends ? 440 : 400, title, {
    ...(ends ? {} : { legend: { bottom: 4, textStyle: TEXT, itemGap: 44 } }),
    grid: { left: 80, right: ends ? 190 : 40, top: 56, bottom: ends ? 64 : 92 },
    xAxis: { ...AXIS, type: 'category', name: axis, nameGap: 32, data: contexts.slice(0, shown).map(String) },
    yAxis: { ...AXIS, type: 'log', min: floorOf(drawn.flatMap((s) => s.values).filter((v) => v !== undefined)), name: unit, nameGap: 56, splitLine: GRID_LINE },
    series: drawn.map(({ name, colour, values, below }) => ({
      type: 'line',
      name,
      data: (ends ? values.slice(0, values.findLastIndex((v) => v !== undefined) + 1) : values).map((v) => v ?? '-'),
      connectNulls: true,
      symbol: 'circle',
      symbolSize: ends ? 6 : 8,
      itemStyle: { color: colour },
      lineStyle: { color: colour, width: 2.5 },
      label: {
        show: !ends,
        position: below ? 'bottom' : 'top',
        color: colour,
        fontFamily: 'sans-serif',
        fontSize: 12,
        formatter: ({ value }) => short(value),
      },
      ...(ends && {
        endLabel: {
          show: true,
          offset: values[shown - 1] === undefined ? [-70, -14] : [0, 0],
          color: colour,
          fontFamily: 'sans-serif',
          fontSize: 12,
          distance: 8,
          formatter: ({ value }) => `${name}: ${short(value)}`,
        },
        labelLayout: { moveOverlap: 'shiftY' },
      }),
    })),
  });
}

/** An SVG with points of several series, the second axis logarithmic; series: `{ name, colour, points: [{ name, x, y }] }`. */
export function scatter(title, xUnit, yUnit, series) {
  const values = series.flatMap((s) => s.points.map((p) => p.y));
  return render(720, 480, title, {
    legend: { bottom: 4, textStyle: TEXT, itemGap: 44 },
    grid: { left: 90, right: 100, top: 56, bottom: 92 },
    xAxis: { ...AXIS, type: 'value', scale: true, name: xUnit, nameGap: 32, splitLine: GRID_LINE },
    yAxis: { ...AXIS, type: 'log', min: floorOf(values), name: yUnit, nameGap: 64, splitLine: GRID_LINE },
    series: series
      .filter((s) => s.points.length > 0)
      .map(({ name, colour, points: own }) => ({
        type: 'scatter',
        name,
        symbolSize: 9,
        itemStyle: { color: colour, opacity: 1 },
        data: own.map((p) => ({ name: p.name, value: [p.x, p.y] })),
        label: { show: true, position: 'right', color: colour, fontFamily: 'sans-serif', fontSize: 11, formatter: (p) => p.name },
        labelLayout: { moveOverlap: 'shiftY' },
      })),
  });
}

/** An SVG with bars of several series by name, on a logarithmic axis; series: `{ name, colour, values }`, absent values undefined. */
export function bars(title, unit, names, series) {
  const found = series.flatMap((s) => s.values).filter((v) => v !== undefined),
    // Bars begin at the power of ten below all values: their lengths are decades above it.
    floor = Math.floor(Math.log10(Math.min(...found)) - 0.3),
    back = (v) => 10 ** (v + floor);
  return render(720, 90 + 62 * names.length, title, {
    legend: { bottom: 4, textStyle: TEXT, itemGap: 32 },
    grid: { left: 236, right: 48, top: 40, bottom: 70 },
    xAxis: {
      ...AXIS,
      type: 'value',
      min: 0,
      interval: 1,
      name: unit,
      nameGap: 26,
      axisLabel: { ...TEXT, formatter: (v) => String(Number(back(v).toPrecision(1))) },
      splitLine: GRID_LINE,
    },
    yAxis: { ...AXIS, type: 'category', inverse: true, data: names },
    series: series.map(({ name, colour, values }) => ({
      type: 'bar',
      name,
      data: values.map((v) => (v === undefined ? '-' : Math.log10(v) - floor)),
      itemStyle: { color: colour },
      label: {
        show: true,
        position: 'right',
        color: GREY,
        fontFamily: 'sans-serif',
        fontSize: 11,
        formatter: ({ value }) => (value === '-' ? '' : String(Number(back(value).toPrecision(2)))),
      },
    })),
  });
}
