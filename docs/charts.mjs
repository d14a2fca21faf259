/** Charts as SVG, for a white and for a dark page. */
import { init, use } from 'echarts/core';
import { LineChart, ScatterChart } from 'echarts/charts';
import { GridComponent, LegendComponent, TitleComponent } from 'echarts/components';
import { SVGRenderer } from 'echarts/renderers';

use([LineChart, ScatterChart, GridComponent, LegendComponent, TitleComponent, SVGRenderer]);

/** One grey that has a contrast of 4 and more on white and on a dark page; the lines' colours are as far from both. */
const GREY = '#767676';
export const COLOURS = { peer: '#d55e00', all: '#2b83c6', ready: '#009e73' };
export const POLICY_COLOURS = ['#2b83c6', '#009e73', '#a05fb4', '#b8860b', '#c2527a'];

/** An SVG with one line per series over the contexts, on a logarithmic axis; series: `{ name, colour, values, below }`, absent values undefined, `below` puts the numbers under the line. */
export function chart(title, unit, contexts, series) {
  const text = { color: GREY, fontFamily: 'sans-serif', fontSize: 13 },
    axis = { nameLocation: 'middle', nameTextStyle: text, axisLabel: text, axisLine: { show: true, lineStyle: { color: GREY } } },
    values = series.flatMap((s) => s.values).filter((v) => v !== undefined),
    // Half a label's height is left free under the lowest point.
    floor = 10 ** Math.floor(Math.log10(Math.min(...values) / 1.5)),
    view = init(null, null, { renderer: 'svg', ssr: true, width: 720, height: 400 });
  view.setOption({
    animation: false,
    backgroundColor: 'transparent',
    title: { text: title, left: 'center', textStyle: { ...text, fontSize: 15 } },
    legend: { bottom: 4, textStyle: text, itemGap: 44 },
    grid: { left: 80, right: 40, top: 56, bottom: 92 },
    xAxis: { ...axis, type: 'category', name: 'attended tokens T', nameGap: 32, data: contexts.map(String) },
    yAxis: { ...axis, type: 'log', min: floor, name: unit, nameGap: 56, splitLine: { lineStyle: { color: GREY, opacity: 0.3 } } },
    series: series
      .filter(({ values }) => values.some((v) => v !== undefined))
      .map(({ name, colour, values, below }) => ({
        type: 'line',
        name,
        data: values.map((v) => v ?? '-'),
        symbol: 'circle',
        symbolSize: 8,
        itemStyle: { color: colour },
        lineStyle: { color: colour, width: 2.5 },
        label: {
          show: true,
          position: below ? 'bottom' : 'top',
          color: colour,
          fontFamily: 'sans-serif',
          fontSize: 12,
          formatter: ({ value }) => String(Number(value.toPrecision(3))),
        },
      })),
  });
  const svg = view.renderToSVGString();
  view.dispose();
  return `${svg}\n`;
}
